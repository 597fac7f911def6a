package nsexec

import (
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// InLane tells whether this process is in a lane; in doubt it is.
func InLane() bool {
	tag, err := readTag()
	return err != nil || strings.HasPrefix(tag, policy.AliasPrefix)
}

// checkTag returns nil if this thread's namespace carries the lane's tag.
func checkTag(lane string) error {
	tag, err := readTag()
	if err != nil {
		return fmt.Errorf("look at lo in namespace %s: %w", lane, err)
	}
	if tag != policy.AliasPrefix+lane {
		return fmt.Errorf("namespace %s exists, but it is no lane", lane)
	}
	return nil
}

// readTag is the alias of lo in this thread's namespace. By a socket that blocks: one that Go's runtime waits for has
// it start threads, which costs more than all else that is done to enter a lane.
func readTag() (string, error) {
	answer, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		return "", err
	}
	links, err := syscall.ParseNetlinkMessage(answer)
	if err != nil {
		return "", err
	}
	for _, link := range links {
		if link.Header.Type != unix.RTM_NEWLINK {
			continue
		}
		attrs, err := syscall.ParseNetlinkRouteAttr(&link)
		if err != nil {
			return "", err
		}
		name, alias := "", ""
		for _, a := range attrs {
			switch a.Attr.Type {
			case unix.IFLA_IFNAME:
				name = unix.ByteSliceToString(a.Value)
			case unix.IFLA_IFALIAS:
				alias = unix.ByteSliceToString(a.Value)
			}
		}
		if name == "lo" {
			return alias, nil
		}
	}
	return "", syscall.ENODEV
}
