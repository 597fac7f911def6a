package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// BuildPackage builds the Debian package of this tree under a version's name, and returns its path, in dir.
func BuildPackage(dir, version string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	make := exec.Command("make", "--silent", "package", "VERSION="+version, "DIST="+dir, "ARCHES="+runtime.GOARCH, "FORMATS=deb")
	make.Dir = root
	if out, err := make.CombinedOutput(); err != nil {
		return "", fmt.Errorf("make package: %w: %s", err, out)
	}
	return filepath.Join(dir, "uplane_"+version+"_"+runtime.GOARCH+".deb"), nil
}

// InstallPackage has apt install a package from a file of this machine, in place of whatever version is there.
func (m *Machine) InstallPackage(ctx context.Context, deb string) (*Uplane, error) {
	data, err := os.ReadFile(deb)
	if err != nil {
		return nil, err
	}
	inside := "/root/" + filepath.Base(deb)
	if err := os.WriteFile(m.Host.Path(inside), data, 0o644); err != nil {
		return nil, err
	}
	out, err := m.Host.RunContext(ctx, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet=2", "--yes", "--allow-downgrades", "install", inside)
	if err != nil {
		return nil, err
	}
	// What fails in a maintainer script without ending it is only to be read.
	for line := range strings.Lines(out) {
		if strings.Contains(line, "Could not") || strings.Contains(line, "Failed") {
			return nil, fmt.Errorf("apt says: %s", out)
		}
	}
	return &Uplane{world: m.World, daemon: m.service("uplaned")}, os.Remove(m.Host.Path(inside))
}
