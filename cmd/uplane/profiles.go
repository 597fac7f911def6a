package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"uplane/internal/config"
	"uplane/nm"
)

// desk is what the profile commands work with.
type desk struct {
	store  *nm.Store
	all    []nm.Stored
	dirs   config.Dirs
	config config.Config
}

func openDesk(c *cobra.Command) (*desk, error) {
	store, err := nm.OpenStore()
	if err != nil {
		return nil, err
	}
	all, err := store.List(c.Context())
	if err != nil {
		return nil, err
	}
	dir, _ := c.Flags().GetString("config-dir")
	d := &desk{store: store, all: all, dirs: config.Dirs{Etc: dir, Run: "/run/uplane", Lib: "/usr/lib/uplane"}}
	d.config, _ = config.Load(d.dirs) // what is wrong with files the daemon tells
	return d, nil
}

// again reads the profiles again.
func (d *desk) again(ctx context.Context) (err error) {
	d.all, err = d.store.List(ctx)
	return err
}

// lane returns the profiles that ask for a lane, an active one first.
func (d *desk) lane(name string) []nm.Stored {
	var out []nm.Stored
	for _, p := range d.all {
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

// one returns the profile of a lane.
func (d *desk) one(name string) (nm.Stored, error) {
	found := d.lane(name)
	if len(found) == 0 {
		return nm.Stored{}, fmt.Errorf("lane %s: %w; uplane profile list shows those there are", name, nm.ErrNoProfile)
	}
	return found[0], nil
}

// profile finds one by its name or UUID.
func (d *desk) profile(name string) (nm.Stored, error) {
	var found []nm.Stored
	for _, p := range d.all {
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

// file returns the lane that a file defines.
func (d *desk) file(name string) (config.Lane, bool) {
	for _, l := range d.config.Lanes {
		if l.Name == name {
			return l, true
		}
	}
	return config.Lane{}, false
}
