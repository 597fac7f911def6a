package policy

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
)

// Files is what lane files say.
type Files struct {
	Lanes   []FileLane
	Broken  map[string]string // by lane, what is wrong with its file
	Partial bool              // a folder was unreadable: a lane that is not here may exist
}

// FileLane is a lane and the file that defines it.
type FileLane struct {
	Lane
	Path string
}

// ProfileLane is a NetworkManager profile that asks for a lane, and the lane that its
// keys make, or why they make none.
type ProfileLane struct {
	Profile
	Made Lane
	Err  string
}

// Sources is every lane that there is, from files and from NetworkManager's
// profiles, and what shall become of each.
//
// A profile wins over a file of the same lane, for NetworkManager does with its
// bridge what it is told, whatever we think. While such a profile is down the
// file still says that the lane is wanted; then the lane keeps its namespace and
// no more. So a lane that moves between file and profile never loses its programs.
// Of several profiles for one lane the active one counts.
type Sources struct {
	Known  map[string]Lane
	Wanted map[string]bool
	Held   map[string]string   // why a lane keeps no more than its namespace
	Broken map[string]string   // of lanes and of others, why they could not be read
	Notes  map[string][]string // what a user should mend
	Owner  map[string]string   // of lanes from a profile: its name
	// Complaints are about profiles that no lane can come from, by UUID.
	Complaints map[string]string
}

// Survey tells which lanes there are.
func Survey(files Files, nm Snapshot, m Memory) Sources {
	s := Sources{
		Known: make(map[string]Lane, len(files.Lanes)), Wanted: map[string]bool{}, Held: map[string]string{},
		Broken: maps.Clone(files.Broken), Notes: map[string][]string{}, Owner: map[string]string{}, Complaints: map[string]string{},
	}
	if s.Broken == nil {
		s.Broken = map[string]string{}
	}
	paths := map[string]string{}
	for _, f := range files.Lanes {
		s.Known[f.Name], paths[f.Name] = f.Lane, f.Path
	}
	for name, saved := range m.Lanes {
		if _, broken := s.Broken[name]; broken || files.Partial {
			if _, ok := s.Known[name]; !ok && saved.Definition != nil && !saved.Definition.External {
				s.Known[name] = *saved.Definition
			}
		}
	}
	for name, lane := range s.Known {
		want := m.Lanes[name].Want
		s.Wanted[name] = want == WantUp || want == "" && lane.Enabled
	}
	if nm.Known {
		s.addProfiles(nm.Profiles, paths, m)
	} else {
		s.addRemembered(m)
	}
	return s
}

// addRemembered adds the lanes of profiles as they were, as long as NetworkManager has not been
// seen since the start.
func (s *Sources) addRemembered(m Memory) {
	for name, saved := range m.Lanes {
		if saved.Definition != nil && saved.Definition.External && saved.Profile {
			s.Known[name], s.Wanted[name] = *saved.Definition, true
			delete(s.Broken, name)
		}
	}
}

func (s *Sources) addProfiles(profiles []ProfileLane, paths map[string]string, m Memory) {
	first := map[string]string{}    // profile, by lane
	broken := map[string][]string{} // what is wrong with profiles that don't count, by lane
	for _, p := range slices.SortedStableFunc(slices.Values(profiles), precedence) {
		name := p.Lane
		if owner, taken := first[name]; taken {
			if p.Active {
				s.Notes[name] = append(s.Notes[name], fmt.Sprintf("profile %s is active for it too, and does not count while %s is", p.Name, owner))
			}
			continue
		}
		lane, why := p.made()
		_, fileBroken := s.Broken[name]
		path, hasFile := paths[name]
		if why != "" {
			if CheckLaneName(name) != nil {
				s.Complaints[p.UUID] = why
				continue // no lane can have that name
			}
			why = fmt.Sprintf("profile %s: %s", p.Name, why)
			saved := m.Lanes[name].Definition
			if saved == nil || !saved.External || saved.Bridge != p.Interface || hasFile && !p.Active {
				broken[name] = append(broken[name], why)
				continue // a file goes on, or another profile
			}
			lane, s.Broken[name] = *saved, why
		} else {
			delete(s.Broken, name)
		}
		first[name] = p.Name
		wasWanted := s.Wanted[name]
		s.Known[name], s.Wanted[name] = lane, p.Active
		if !p.Leaving {
			s.Owner[name] = p.Name
		}
		if !p.Active && wasWanted {
			s.Wanted[name], s.Held[name] = true, fmt.Sprintf("its profile %s is down in NetworkManager: nmcli connection up %s", p.Name, Quote(p.Name))
			if p.Leaving {
				s.Held[name] = fmt.Sprintf("NetworkManager is taking down bridge %s", p.Interface)
			}
		}
		if p.Method == "shared" {
			s.Notes[name] = append(s.Notes[name], unshare(&p.Profile))
		}
		if (hasFile || fileBroken) && !p.Leaving {
			s.Notes[name] = append(s.Notes[name], fmt.Sprintf("%s defines it too, and does not count beside profile %s: delete one of them", cmp.Or(path, "a lane file"), p.Name))
		}
	}
	for name, problems := range broken {
		if _, known := s.Known[name]; known {
			s.Notes[name] = append(s.Notes[name], problems...)
		} else if s.Broken[name] == "" {
			s.Broken[name] = strings.Join(problems, "; ")
		}
	}
}

// made is the lane that a profile asks for, or why there can't be one.
func (p *ProfileLane) made() (Lane, string) {
	lane := p.Made
	if p.Err != "" {
		return lane, p.Err
	}
	if err := CheckInterfaceName(p.Interface); err != nil {
		return lane, fmt.Sprintf("connection.interface-name: %v", err)
	}
	lane.External, lane.Bridge, lane.Subnet, lane.Gateway = true, p.Interface, netip.Prefix{}, netip.Addr{}
	if CheckSubnet(p.Address.Masked()) == nil {
		lane.Subnet, lane.Gateway = p.Address.Masked(), p.Address.Addr()
	}
	return lane, ""
}

// unshare says how to keep NetworkManager from serving a lane itself.
func unshare(p *Profile) string {
	address := "10.0.1.1/24"
	if p.Address.IsValid() {
		address = p.Address.String()
	}
	return fmt.Sprintf("profile %[1]s has ipv4.method shared, so NetworkManager hands out addresses and translates them beside us: "+
		"nmcli connection modify %[2]s ipv4.method manual ipv4.addresses %[3]s; nmcli connection up %[2]s", p.Name, Quote(p.Name), address)
}

// precedence puts the profile that counts first.
func precedence(a, b ProfileLane) int {
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

// wanted returns the lanes that shall be up, by name.
func (s *Sources) wanted() []Lane {
	var out []Lane
	for name, lane := range s.Known {
		if s.Wanted[name] {
			out = append(out, lane)
		}
	}
	return byName(out)
}

// reserved parts lanes from those that are held, and finds beside these the ones that are down and have numbers, or
// whose profile says some: theirs stay theirs, as far as no lane that is up has them.
func (s *Sources) reserved(lanes []Lane, m Memory) (up, reserved []Lane) {
	for _, lane := range lanes {
		if s.Held[lane.Name] == "" {
			up = append(up, lane)
		} else {
			reserved = append(reserved, lane)
		}
	}
	for name, lane := range s.Known {
		if (m.Lanes[name].Allocation == Allocation{} && !lane.External) || s.Wanted[name] {
			continue
		}
		if planned := slices.ContainsFunc(lanes, func(l Lane) bool { return l.Name == name }); !planned {
			reserved = append(reserved, lane)
		}
	}
	return up, reserved
}

// Quote makes a name a shell's word.
func Quote(s string) string {
	if s != "" && strings.Trim(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:@%+=") == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
