package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"uplane/policy"
)

// Reload switches to another backend, which builds its own before what the other has built goes.
func TestSwitchBackend(t *testing.T) {
	for from, to := range map[string]string{"nftables": "iptables", "iptables": "nftables"} {
		t.Run(from+" to "+to, func(t *testing.T) {
			m := newMachine()
			d := newDaemon(t, m)
			d.write("uplane.toml", backends[from])
			d.readConfig()
			before := d.trace()
			d.file("one", "uplink = \"wlp6s0\"\n")
			d.readConfig()
			d.settle()
			words := map[string]string{"nftables": "nft ", "iptables": "iptables -t"}
			was := m.count(words[from])

			// What can't be opened changes nothing, and is tried at the next reload.
			open := d.Firewall
			d.Firewall = func(string) (Firewall, error) { return nil, errors.New("no such command") }
			d.write("uplane.toml", backends[to])
			applied := m.applied
			var problems []error
			reload := func() {
				t.Helper()
				if err := d.call(func() (err error) { problems, err = d.Reload(t.Context()); return err }); err != nil {
					t.Error(err)
				}
			}
			if reload(); len(problems) != 1 || !strings.Contains(problems[0].Error(), "no such command") {
				t.Errorf("problems: %v", problems)
			}
			d.requireWrites(applied, 0)
			d.requireState("one", policy.Up, "")

			// What can't be read or written keeps what there is.
			d.Firewall = open
			m.firewall = errors.New("not readable")
			reload()
			d.pass()
			m.firewall = nil
			m.fail = func(op policy.Op) error {
				if isFirewall(op) {
					return errors.New("not writable")
				}
				return nil
			}
			d.pass()
			d.pass()
			if got := m.count(words[from]); got != was {
				t.Errorf("%d of %d are left of %s before %s is there:\n%s", got, was, from, to, d.trace())
			}

			m.fail = nil
			m.leftovers = errors.New("not now")
			d.pass()
			d.pass()
			if got := m.count(words[from]); got != was || m.count(words[to]) == 0 {
				t.Errorf("both should be there:\n%s", d.trace())
			}
			m.leftovers = nil
			d.settle()
			if m.count(words[from]) != 0 || m.count(words[to]) == 0 {
				t.Errorf("%s should be gone:\n%s", from, d.trace())
			}
			d.requireState("one", policy.Up, "")
			opened := len(m.opened)
			if reload(); len(problems) != 0 || len(m.opened) != opened {
				t.Errorf("it is opened again: %v, %v", problems, m.opened)
			}

			d.file("one", "")
			d.readConfig()
			d.settle()
			if after := d.trace(); after != before {
				t.Errorf("left:\n%s\nbefore:\n%s", after, before)
			}
			if !slices.Contains(m.opened, to) {
				t.Error(m.opened)
			}
		})
	}
}
