package policy

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// The package stays pure: no D-Bus, netlink, process, file or clock, so
// every branch of it runs without root.
func TestPure(t *testing.T) {
	list := func(args ...string) []string {
		out, err := exec.Command("go", append([]string{"list"}, args...)...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	for _, p := range list("-f", `{{join .Imports "\n"}}`, ".") {
		if slices.Contains([]string{"net", "os", "syscall", "time", "context", "unsafe", "C"}, p) ||
			strings.HasPrefix(p, "os/") || strings.HasPrefix(p, "net/") && p != "net/netip" || strings.HasPrefix(p, "internal/") {
			t.Errorf("package policy imports %s", p)
		}
	}
	for _, p := range list("-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".") {
		if p != "uplane/policy" {
			t.Errorf("package policy depends on %s", p)
		}
	}
	for _, p := range list("-deps", ".") {
		if p == "net" || p == "os/exec" {
			t.Errorf("package policy depends on %s", p)
		}
	}
}
