package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// File is a lane's resolv.conf. It is rewritten in place: running programs have
// it bound over /etc/resolv.conf and would not see a new inode.
type File struct {
	Path    string
	Content string
}

// FileTag starts the first line of every file of ours.
const FileTag = "# uplane:"

// ResolvConfPath is where "ip netns exec" looks for a namespace's resolv.conf.
func ResolvConfPath(lane string) string { return "/etc/netns/" + lane + "/resolv.conf" }

// resolvConf is lane's resolv.conf. Without servers it names none: the C library
// then asks 127.0.0.1, where in the lane nobody answers, at once.
func resolvConf(lane string, servers []netip.Addr, search []string) File {
	var b strings.Builder
	fmt.Fprintf(&b, "%s%s: follows the lane's uplink; changes are overwritten\n", FileTag, lane)
	if len(search) > 0 {
		fmt.Fprintf(&b, "search %s\n", strings.Join(search, " "))
	}
	for _, s := range servers {
		fmt.Fprintf(&b, "nameserver %s\n", s)
	}
	return File{ResolvConfPath(lane), b.String()}
}

func (f File) key() key { return key{kind: kindFile, name: f.Path} }

func (f File) add() []string {
	dir := f.Path[:strings.LastIndexByte(f.Path, '/')]
	return append([]string{"mkdir -p " + dir}, f.replace(nil)...)
}

func (f File) replace(Object) []string {
	return []string{fmt.Sprintf("cat > %s <<'EOF'\n%sEOF", f.Path, f.Content)}
}

func (f File) remove() []string {
	dir := f.Path[:strings.LastIndexByte(f.Path, '/')]
	return []string{"rm -f " + f.Path, "rmdir " + dir}
}
