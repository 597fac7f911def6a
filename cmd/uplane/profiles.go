package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"uplane/internal/config"
	"uplane/nm"
)

// profiles are NetworkManager's profiles and the lane files beside them.
type profiles struct {
	store  *nm.Store
	all    []nm.Stored
	dirs   config.Dirs
	config config.Config
}

func openProfiles(c *cobra.Command) (*profiles, error) {
	store, err := nm.OpenStore()
	if err != nil {
		return nil, err
	}
	all, err := store.List(c.Context())
	if err != nil {
		return nil, err
	}
	dir, _ := c.Flags().GetString("config-dir")
	ps := &profiles{store: store, all: all, dirs: config.Dirs{Etc: dir, Run: "/run/uplane", Lib: "/usr/lib/uplane"}}
	ps.config, _ = config.Load(ps.dirs) // what is wrong with files the daemon tells
	return ps, nil
}

// refresh reads NetworkManager's profiles again.
func (ps *profiles) refresh(ctx context.Context) (err error) {
	ps.all, err = ps.store.List(ctx)
	return err
}

// ofLane returns the profiles of a lane, an active one first.
func (ps *profiles) ofLane(name string) []nm.Stored {
	var out []nm.Stored
	for _, p := range ps.all {
		switch {
		case p.Lane != name:
		case p.Active:
			out = append([]nm.Stored{p}, out...)
		default:
			out = append(out, p)
		}
	}
	return out
}

// requireOne returns the profile of a lane, the active one if there are several.
func (ps *profiles) requireOne(name string) (nm.Stored, error) {
	found := ps.ofLane(name)
	if len(found) == 0 {
		return nm.Stored{}, fmt.Errorf("lane %s: %w; uplane profile list shows those there are", name, nm.ErrNoProfile)
	}
	return found[0], nil
}

// byName finds a profile by its name or UUID.
func (ps *profiles) byName(name string) (nm.Stored, error) {
	var found []nm.Stored
	for _, p := range ps.all {
		if p.UUID == name {
			return p, nil
		}
		if p.Name == name {
			found = append(found, p)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return nm.Stored{}, fmt.Errorf("%s: %w; nmcli connection shows those there are", name, nm.ErrNoProfile)
	}
	return nm.Stored{}, fmt.Errorf("%s: %d profiles have that name; use the UUID, which nmcli connection shows", name, len(found))
}

// laneFile returns the lane that a lane file defines.
func (ps *profiles) laneFile(name string) (config.Lane, bool) {
	for _, l := range ps.config.Lanes {
		if l.Name == name {
			return l, true
		}
	}
	return config.Lane{}, false
}
