// Package programs is the daemon's part in running programs in lanes for users
// who are not root: it has systemd start them, lists them and ends them.
//
// What root does here is little. It looks at who asks (caller.go), and has
// systemd start one command as that user in the lane's namespace (unit.go).
// Descriptors, environment and working directory of the caller never come here:
// what "uplane run" has started is uplane again, which fetches them from its
// other half, as the user (package inside).
package programs

import "uplane/policy"

// namespacePath is where a lane's network namespace is.
func namespacePath(lane string) string { return netnsDir + "/" + lane }

const netnsDir = "/run/netns"

// Manager starts, lists and ends programs.
type Manager struct {
	// Runtime is the daemon's own folder in /run.
	Runtime string
	// Address is the bus; empty: the system bus.
	Address string
}

func check(lane string) error { return policy.CheckLaneName(lane) }
