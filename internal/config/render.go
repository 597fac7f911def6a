package config

import (
	"bytes"
	"errors"
	"fmt"

	"uplane/policy"
)

// header starts every file that we write. A lane of nothing but defaults would
// be an empty file without it, which masks the lane.
func header(lane string) []byte { return fmt.Appendf(nil, "# Lane %s, see uplane.toml(5).\n", lane) }

// render writes the file of a lane: the keys in which it differs from base.
func render(lane policy.Lane, base settings) []byte {
	b := bytes.NewBuffer(header(lane.Name))
	for _, k := range keys {
		if v := k.show(settings{lane: lane}); v != k.show(base) {
			fmt.Fprintf(b, "%s = %s\n", k.name, v)
		}
	}
	return b.Bytes()
}

// Check returns an error unless a lane file could say what lane says. It is for
// lanes that come from elsewhere: NetworkManager profiles, saved state, the bus.
func Check(lane policy.Lane) error {
	if err := policy.CheckLaneName(lane.Name); err != nil {
		return err
	}
	if len(lane.Uplink) == 0 {
		return errors.New("uplink: missing")
	}
	got, errs := parse("", render(lane, builtin), builtin, false)
	if errs != nil {
		var e *Error
		errors.As(errs[0], &e)
		return fmt.Errorf("%s: %s", e.Key, e.Msg)
	}
	for _, k := range keys {
		if k.show(got.settings) != k.show(settings{lane: lane}) {
			return fmt.Errorf("%s: not a value that a lane file can hold", k.name)
		}
	}
	if lane.NoBridge && lane.Bridge != "" {
		return fmt.Errorf("bridge: named %q and not wanted at the same time", lane.Bridge)
	}
	return nil
}
