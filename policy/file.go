package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// File is a lane's resolv.conf or nsswitch.conf. It is rewritten in place: running
// programs have it bound over the host's and would not see a new inode.
type File struct {
	Path    string
	Content string
}

// FileTag starts the first line of every file of ours.
const FileTag = "# uplane:"

// NetnsDir is where "ip netns" binds namespaces to names.
const NetnsDir = "/run/netns"

// NetnsPath is where a lane's namespace is bound.
func NetnsPath(lane string) string { return NetnsDir + "/" + lane }

// EtcNetns is where "ip netns exec" looks for a namespace's files.
const EtcNetns = "/etc/netns"

// ResolvConfPath is where it looks for a namespace's resolv.conf.
func ResolvConfPath(lane string) string { return EtcNetns + "/" + lane + "/resolv.conf" }

// resolvConf is lane's resolv.conf. Without servers it names none: the C library
// then asks 127.0.0.1, where in the lane nobody answers, at once.
func resolvConf(lane string, servers []netip.Addr, search []string) File {
	var b strings.Builder
	b.WriteString(FileTag + lane + ": follows its uplink; changes are overwritten\n")
	if search = slices.DeleteFunc(slices.Clone(search), notDomain); len(search) > 0 {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	for _, s := range servers {
		b.WriteString("nameserver " + s.String() + "\n")
	}
	return File{ResolvConfPath(lane), b.String()}
}

const maxDomain = 253 // bytes, RFC 1035

// notDomain leaves out what the network sends and no resolver searches: what
// would break out of the file's line, and "~example.com", by which
// NetworkManager only routes queries.
func notDomain(s string) bool { return !spelled(s, maxDomain, isLetter, "_.-", ".") }

func (f File) key() key { return key{kind: kindFile, name: f.Path} }

func (f File) add() []string {
	dir := f.Path[:strings.LastIndexByte(f.Path, '/')]
	return append([]string{"mkdir -p " + dir}, f.replace(nil)...)
}

func (f File) replace(Object) []string {
	lines := strings.Split(strings.TrimSuffix(f.Content, "\n"), "\n")
	return []string{fmt.Sprintf("printf '%%s\\n' '%s' > %s", strings.Join(lines, "' '"), f.Path)}
}

func (f File) remove() []string {
	dir := f.Path[:strings.LastIndexByte(f.Path, '/')]
	return []string{"rm -f " + f.Path, "rmdir --ignore-fail-on-non-empty " + dir}
}
