package units

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"uplane/internal/run/overlay"
	"uplane/internal/state/safefile"
	"uplane/policy"
)

// Dir is where the administrator's units are.
const Dir = "/etc/systemd/system"

const dropInFile = "50-uplane.conf"

// unitName is stricter than systemd's unit_name_is_valid: only services, since only
// they run programs in a namespace of ours.
var unitName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9:_.\\-]+(@[A-Za-z0-9:_.\\-]*)?\.service$`)
})

// otherKinds are the suffixes to which no .service is added.
var otherKinds = map[string]bool{
	".socket": true, ".target": true, ".timer": true, ".path": true, ".mount": true, ".automount": true, ".swap": true,
	".slice": true, ".scope": true, ".device": true,
}

// maxUnit is UNIT_NAME_MAX of systemd, less its final zero.
const maxUnit = 255

// infrastructure would cut the host off if it ran in a lane.
var infrastructure = map[string]bool{
	"uplaned.service": true, "NetworkManager.service": true, "NetworkManager-dispatcher.service": true, "wpa_supplicant.service": true,
	"dbus.service": true, "dbus-broker.service": true, "firewalld.service": true, "nftables.service": true,
}

// CheckUnit returns the full name of a service that may run in a lane.
func CheckUnit(name string) (string, error) {
	full := name
	if filepath.Ext(name) != ".service" {
		full += ".service"
	}
	switch {
	case otherKinds[filepath.Ext(name)] || !unitName().MatchString(full) || len(full) > maxUnit || strings.HasPrefix(full, "-") || strings.HasPrefix(full, "."):
		return "", fmt.Errorf("invalid unit %q: use the name of a service, such as game.service", name)
	case infrastructure[full] || strings.HasPrefix(full, "systemd-"):
		return "", fmt.Errorf("%s serves the whole machine, so it can't run in a lane", full)
	}
	return full, nil
}

// DropIn is what makes a service run in a lane.
func DropIn(unit, lane string) string {
	var binds, masks []string
	for _, f := range overlay.Files(lane) {
		binds = append(binds, f.LanePath+":"+f.HostPath)
	}
	for _, dir := range overlay.Masked {
		masks = append(masks, dir+":ro")
	}
	return fmt.Sprintf(`%[1]s%[2]s: %[3]s runs in this lane; "uplane adopt --undo %[3]s" removes it
[Unit]
# It starts only while the lane is up, and ends with it.
Requisite=%[4]s
After=%[4]s
PartOf=%[4]s

[Service]
NetworkNamespacePath=/run/netns/%[2]s
BindReadOnlyPaths=%[5]s
# Where sockets are of what resolves names outside of the lane. The folders, not the sockets: a
# service that restarts makes new ones.
TemporaryFileSystem=%[6]s

[Install]
WantedBy=%[4]s
`, policy.FileTag, lane, unit, Target(lane), strings.Join(binds, " "), strings.Join(masks, " "))
}

// Adopt writes the drop-in by which a service runs in a lane, in dir, and returns
// its path, and what makes it as it was. A file there that is not ours is left
// alone. A service that moves from another lane is in one of both all the time,
// and stays enabled.
func Adopt(dir, unit, lane string) (path string, undo func() error, err error) {
	if err := policy.CheckLaneName(lane); err != nil {
		return "", nil, err
	}
	path = dropInPath(dir, unit)
	before, err := adoptedBy(path)
	switch {
	case err == nil:
		undo = func() error { _, _, err := Adopt(dir, unit, before); return err }
	case errors.Is(err, ErrNotAdopted):
		undo = func() error { return Release(dir, unit) }
	default:
		return "", nil, fmt.Errorf("%s: %w", unit, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", nil, err
	}
	if err := safefile.Write(path, []byte(DropIn(unit, lane)), 0o644); err != nil {
		return "", nil, err
	}
	if before == "" || before == lane {
		return path, undo, nil
	}
	return path, undo, moveLink(wantsLink(dir, unit, before), wantsLink(dir, unit, lane))
}

// wantsLink is what "systemctl enable" makes, so that a lane's target starts a service.
func wantsLink(dir, unit, lane string) string { return filepath.Join(dir, Target(lane)+".wants", unit) }

// moveLink moves a link, if there is one, to another folder, and removes the old one if it is empty.
func moveLink(from, to string) error {
	if !isLink(from) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if err := os.Rename(from, to); err != nil {
		return err
	}
	os.Remove(filepath.Dir(from))
	return nil
}

// ErrNotAdopted says that a unit is in no lane by us.
var ErrNotAdopted = errors.New("it is in no lane")

// Release removes a service's drop-in, and what "systemctl enable" made of it.
func Release(dir, unit string) error {
	path := dropInPath(dir, unit)
	lane, err := adoptedBy(path)
	if err != nil {
		return fmt.Errorf("%s: %w", unit, err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	os.Remove(filepath.Dir(path)) // stays with the administrator's own in it
	if link := wantsLink(dir, unit, lane); isLink(link) {
		if err := os.Remove(link); err != nil {
			return err
		}
		os.Remove(filepath.Dir(link))
	}
	return nil
}

func dropInPath(dir, unit string) string { return filepath.Join(dir, unit+".d", dropInFile) }

// adoptedBy reads from a drop-in whose it is.
func adoptedBy(path string) (lane string, err error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNotAdopted
	}
	if err != nil {
		return "", err
	}
	foreign := fmt.Errorf("%s exists and is not ours: remove it first", path)
	if !info.Mode().IsRegular() {
		return "", foreign
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	rest, ours := strings.CutPrefix(string(text), policy.FileTag)
	lane, _, found := strings.Cut(rest, ":")
	if !ours || !found || policy.CheckLaneName(lane) != nil {
		return "", foreign
	}
	return lane, nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}
