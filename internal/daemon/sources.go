package daemon

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"uplane/internal/state"
	"uplane/policy"
)

// lanes is every lane that there is, from files and from NetworkManager's
// profiles, and what shall become of each.
//
// A profile wins over a file of the same lane, for NetworkManager does with its
// bridge what it is told, whatever we think. While such a profile is down the
// file still says that the lane is wanted; then the lane keeps its namespace and
// no more. So a lane that moves between file and profile never loses its programs.
// Of several profiles for one lane the active one counts.
type lanes struct {
	known  map[string]policy.Lane
	wanted map[string]bool
	held   map[string]string   // why a lane keeps no more than its namespace
	broken map[string]error    // of lanes and of others that could not be read
	notes  map[string][]string // what a user should mend
	owner  map[string]string   // of lanes from a profile: its name
}

// survey brings l.lanes up to date.
func (l *Loop) survey() {
	s := lanes{
		known: make(map[string]policy.Lane, len(l.config.Lanes)), wanted: map[string]bool{}, held: map[string]string{},
		broken: maps.Clone(l.config.Broken), notes: map[string][]string{}, owner: map[string]string{},
	}
	if s.broken == nil {
		s.broken = map[string]error{}
	}
	files := map[string]string{}
	for _, c := range l.config.Lanes {
		s.known[c.Name], files[c.Name] = c.Lane, c.File
	}
	for name, saved := range l.memory.state.Lanes {
		if _, broken := s.broken[name]; broken || l.config.Partial {
			if _, ok := s.known[name]; !ok && saved.Definition != nil && !saved.Definition.External {
				s.known[name] = *saved.Definition
			}
		}
	}
	for name, lane := range s.known {
		want := l.memory.run.Lanes[name].Want
		s.wanted[name] = want == state.WantUp || want == "" && lane.Enabled
	}
	if from := l.Uplinks(); from.Known {
		l.addProfiles(&s, from.Profiles, files)
	} else {
		l.addRemembered(&s)
	}
	for name := range maps.Keys(s.known) {
		if s.known[name].External != l.lanes.known[name].External {
			// NetworkManager's bridge came or went; its signals are no later than the kernel's, so
			// what was read before does not count.
			l.Kernel.Invalidate()
		}
	}
	l.lanes = s
}

// addRemembered adds the lanes of profiles as they were, as long as NetworkManager has not been
// seen since the start.
func (l *Loop) addRemembered(s *lanes) {
	for name, saved := range l.memory.state.Lanes {
		if saved.Definition != nil && saved.Definition.External && l.memory.run.Lanes[name].Profile {
			s.known[name], s.wanted[name] = *saved.Definition, true
			delete(s.broken, name)
		}
	}
}

func (l *Loop) addProfiles(s *lanes, profiles []policy.Profile, files map[string]string) {
	first := map[string]string{}    // profile, by lane
	broken := map[string][]string{} // what is wrong with profiles that don't count, by lane
	said := l.complained
	l.complained = map[string]bool{} // of the profiles that there are
	for _, p := range slices.SortedStableFunc(slices.Values(profiles), precedence) {
		name := p.Lane
		if owner, taken := first[name]; taken {
			if p.Active {
				s.notes[name] = append(s.notes[name], fmt.Sprintf("profile %s is active for it too, and does not count while %s is", p.Name, owner))
			}
			continue
		}
		lane, err := l.profileLane(p)
		_, fileBroken := s.broken[name]
		file, hasFile := files[name]
		if err != nil {
			if policy.CheckLaneName(name) != nil {
				l.complain(p, err, said)
				continue // no lane can have that name
			}
			err = fmt.Errorf("profile %s: %w", p.Name, err)
			saved := l.memory.state.Lanes[name].Definition
			if saved == nil || !saved.External || saved.Bridge != p.Interface || hasFile && !p.Active {
				broken[name] = append(broken[name], err.Error())
				continue // a file goes on, or another profile
			}
			lane, s.broken[name] = *saved, err
		} else {
			delete(s.broken, name)
		}
		first[name] = p.Name
		wasWanted := s.wanted[name]
		s.known[name], s.wanted[name] = lane, p.Active
		if !p.Leaving {
			s.owner[name] = p.Name
		}
		if !p.Active && wasWanted {
			s.wanted[name], s.held[name] = true, fmt.Sprintf("its profile %s is down in NetworkManager: nmcli connection up %s", p.Name, quote(p.Name))
			if p.Leaving {
				s.held[name] = fmt.Sprintf("NetworkManager is taking down bridge %s", p.Interface)
			}
		}
		if p.Method == "shared" {
			s.notes[name] = append(s.notes[name], unshare(p))
		}
		if (hasFile || fileBroken) && !p.Leaving {
			s.notes[name] = append(s.notes[name], fmt.Sprintf("%s defines it too, and does not count beside profile %s: delete one of them", cmp.Or(file, "a lane file"), p.Name))
		}
	}
	for name, problems := range broken {
		if _, known := s.known[name]; known {
			s.notes[name] = append(s.notes[name], problems...)
		} else if s.broken[name] == nil {
			s.broken[name] = errors.New(strings.Join(problems, "; "))
		}
	}
}

// unshare says how to keep NetworkManager from serving a lane itself.
func unshare(p policy.Profile) string {
	address := "10.0.1.1/24"
	if p.Address.IsValid() {
		address = p.Address.String()
	}
	return fmt.Sprintf("profile %[1]s has ipv4.method shared, so NetworkManager hands out addresses and translates them beside us: "+
		"nmcli connection modify %[2]s ipv4.method manual ipv4.addresses %[3]s; nmcli connection up %[2]s", p.Name, quote(p.Name), address)
}

// precedence puts the profile that counts first.
func precedence(a, b policy.Profile) int {
	first := func(a, b bool) int {
		switch {
		case a == b:
			return 0
		case a:
			return -1
		}
		return 1
	}
	return cmp.Or(first(a.Active, b.Active), first(!a.Leaving, !b.Leaving), first(a.Named, b.Named), cmp.Compare(a.UUID, b.UUID))
}

// profileLane is the lane that a profile asks for.
func (l *Loop) profileLane(p policy.Profile) (policy.Lane, error) {
	lane, err := l.config.FromProfile(p.Lane, p.Keys)
	if err != nil {
		return lane, err
	}
	if err := policy.CheckInterfaceName(p.Interface); err != nil {
		return lane, fmt.Errorf("connection.interface-name: %w", err)
	}
	lane.External, lane.Bridge, lane.Subnet, lane.Gateway = true, p.Interface, netip.Prefix{}, netip.Addr{}
	if policy.CheckSubnet(p.Address.Masked()) == nil {
		lane.Subnet, lane.Gateway = p.Address.Masked(), p.Address.Addr()
	}
	return lane, nil
}

// complain logs what is wrong with a profile, unless that was said before.
func (l *Loop) complain(p policy.Profile, err error, said map[string]bool) {
	text := p.UUID + " " + err.Error()
	l.complained[text] = true
	if !said[text] {
		l.Log.Error("profile", "name", p.Name, "uuid", p.UUID, "error", err)
	}
}

// quote makes a profile's name a shell's word.
func quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// managed tells whether an object lives on a bridge that is NetworkManager's.
func (v *view) managed(o policy.Object) bool {
	for i := range v.lanes {
		st := &v.lanes[i]
		if !st.Lane.External {
			continue
		}
		switch o := o.(type) {
		case policy.Veth:
			if o.Lane == st.Lane.Name {
				return true
			}
		case policy.Sysctl:
			if o.Link() == st.Lane.Bridge {
				return true
			}
		case policy.Route:
			if o.Dev == st.Lane.Bridge {
				return true
			}
		}
	}
	return false
}
