package state

import (
	"fmt"

	"uplane/internal/config"
	"uplane/policy"
)

// State is what survives a reboot.
type State struct {
	Lanes map[string]Lane `json:"lanes"` // by lane name
}

// Lane is what a lane was given, and what it was when its file was last good.
type Lane struct {
	Allocation policy.Allocation `json:"allocation"`
	// Definition is what the lane goes on as while its file is broken; nil: its
	// file never was good.
	Definition *policy.Lane `json:"definition,omitempty"`
}

func (s State) check() error {
	for name, l := range s.Lanes {
		if err := l.check(name); err != nil {
			return fmt.Errorf("lane %q: %w", name, err)
		}
	}
	return nil
}

func (l Lane) check(name string) error {
	if err := policy.CheckLaneName(name); err != nil {
		return err
	}
	if err := checkAllocation(l.Allocation); err != nil {
		return fmt.Errorf("allocation: %w", err)
	}
	if l.Definition == nil {
		return nil
	}
	if l.Definition.Name != name {
		return fmt.Errorf("definition: it is that of lane %q", l.Definition.Name)
	}
	if err := config.Check(*l.Definition); err != nil {
		return fmt.Errorf("definition: %w", err)
	}
	return nil
}

// checkAllocation takes an allocation with parts missing, as a lane has for
// which nothing free was left.
func checkAllocation(a policy.Allocation) error {
	if a.Subnet.IsValid() {
		if err := policy.CheckSubnet(a.Subnet); err != nil {
			return err
		}
	}
	if a.Table != 0 {
		if err := policy.CheckTable(a.Table); err != nil {
			return err
		}
	}
	for _, name := range []string{a.Bridge, a.Veth} {
		if name == "" {
			continue
		}
		if err := checkInterface(name); err != nil {
			return err
		}
	}
	return nil
}

// checkInterface refuses the names of which the kernel has sysctl folders for
// every interface together: a lane never switches anything host-wide.
func checkInterface(name string) error {
	if name == "all" || name == "default" {
		return fmt.Errorf("invalid interface name %q: it means all of them", name)
	}
	return policy.CheckInterfaceName(name)
}
