package kernel

import (
	"testing"
	"time"

	"uplane/policy"
	"uplane/test/lab"
)

// TestPortsAreSeen has somebody else connect links to bridges, ours and others', and take them away.
func TestPortsAreSeen(t *testing.T) {
	t.Parallel()
	if !lab.Inside(t) {
		return
	}
	sh(t, uplinkLinks)
	changed := make(chan struct{}, 1)
	k := open(t, func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	want := testState()
	converge(t, k, want)
	sh(t, "ip link add docker0 type bridge; ip link add tap7 type veth peer name tap8")
	for _, step := range []struct {
		script, link string
		want         policy.HostLink // its Bridge and Master
	}{
		{"ip link set tap7 master docker0", "docker0", policy.HostLink{Bridge: true}},
		{":", "tap7", policy.HostLink{Master: "docker0"}},
		{"ip link set tap7 master br0", "tap7", policy.HostLink{Master: "br0"}},
		{"ip link set tap7 nomaster", "tap7", policy.HostLink{}},
		{"ip link set tap7 master br0; ip link del tap7", "tap7", policy.HostLink{}},
		{"ip link add tap7 master br0 type veth peer name tap8", "tap7", policy.HostLink{Master: "br0"}},
		{"ip link set tap7 nomaster; ip link del docker0; ip link add docker0 type veth peer name tap9", "docker0", policy.HostLink{}},
	} {
		drain(changed)
		sh(t, step.script)
		for deadline := time.After(2 * time.Second); ; {
			_, host, err := observeAll(k, nil)
			if err != nil {
				t.Fatal(err)
			}
			got := host.Links[step.link]
			if got.Bridge == step.want.Bridge && got.Master == step.want.Master {
				break
			}
			select {
			case <-changed:
			case <-deadline:
				t.Fatalf("after %q %s is %+v", step.script, step.link, got)
			}
		}
		requireEqual(t, observe(t, k, want), want) // the lanes' own links are no news
	}
}
