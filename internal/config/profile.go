package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"uplane/policy"
)

// profileKeys are the keys of a lane file that a NetworkManager profile can
// have as user data. The rest it says in its own words: the address of its bridge
// is the subnet, and nmcli connection up and down are enabled.
var profileKeys = []string{"uplink", "table", "mark", "dns", "allow", "ipv6"}

// FromProfile returns the lane that a NetworkManager profile asks for by the user
// data in keys, on top of uplane.toml. Lists have commas. What is said of a lane's
// file holds for a profile, too: whatever is not understood is an error.
func (c Config) FromProfile(name string, keys map[string]string) (policy.Lane, error) {
	if err := policy.CheckLaneName(name); err != nil {
		return policy.Lane{}, err
	}
	if c.baseErr != nil {
		return policy.Lane{}, c.baseErr
	}
	got := c.base
	for _, key := range slices.Sorted(maps.Keys(keys)) {
		if !slices.Contains(profileKeys, key) {
			return policy.Lane{}, fmt.Errorf("org.uplane.%.40s: unknown key; use lane, %s", key, strings.Join(profileKeys, ", "))
		}
		k, _ := keyNamed(key)
		p, errs := parse("", []byte(key+" = "+k.fromText(keys[key])), got, false)
		if errs != nil {
			var e *Error
			errors.As(errs[0], &e)
			return policy.Lane{}, fmt.Errorf("org.uplane.%s: %s", key, e.Msg)
		}
		got = p.settings
	}
	got.lane.Name, got.lane.Bridge, got.lane.NoBridge, got.lane.Enabled = name, "", false, true
	if len(got.lane.Uplink) == 0 {
		return policy.Lane{}, fmt.Errorf("org.uplane.uplink: missing, and %s has no default for it; use uplane profile add %s --uplink wlp6s0, or the like", defaultsFile, name)
	}
	return got.lane, nil
}

// fromText writes a key's plain text as a TOML value.
func (k key) fromText(text string) string {
	switch k.name {
	case "table", "mark":
		if isNumber(text) {
			return text
		}
	case "uplink", "dns", "allow":
		var items []string
		for item := range strings.SplitSeq(text, ",") {
			if item = strings.TrimSpace(item); item != "" {
				items = append(items, item)
			}
		}
		return quoteList(items, false, func(s string) string { return s })
	}
	return quote(text)
}

// isNumber tells whether text is a whole number as TOML writes it, and nothing that would end the line.
func isNumber(text string) bool {
	return text != "" && strings.Trim(text, "0123456789abcdefABCDEFx") == "" && text[0] >= '0' && text[0] <= '9'
}

// ProfileKeys is the user data by which a profile asks for a lane: the keys in which it differs from
// uplane.toml, as FromProfile reads them.
func (c Config) ProfileKeys(lane policy.Lane) (map[string]string, error) {
	out := map[string]string{}
	for _, name := range profileKeys {
		k, _ := keyNamed(name)
		if k.show(settings{lane: lane}) == k.show(c.base) {
			continue
		}
		items, list := listed(name, &lane)
		if !list {
			items = []string{strings.Trim(k.show(settings{lane: lane}), `"`)}
		}
		for _, item := range items {
			if strings.Contains(item, ",") || item != strings.TrimSpace(item) {
				return nil, fmt.Errorf("%s %q: a profile's user data can't hold a comma or outer blanks; select the network by uuid: or connection: instead", name, item)
			}
		}
		out[name] = strings.Join(items, ",")
	}
	return out, nil
}

// FileKeys are the keys of a lane file, as [New] takes them, that says what a profile says of a lane.
func (c Config) FileKeys(lane policy.Lane) map[string]any {
	out := map[string]any{}
	for _, name := range profileKeys {
		k, _ := keyNamed(name)
		value := k.show(settings{lane: lane})
		items, list := listed(name, &lane)
		switch {
		case value == k.show(c.base):
		case list:
			out[name] = items
		case name == "table":
			out[name] = lane.Table
		case name == "mark" && lane.MarkMask == 0:
			out[name] = lane.Mark
		default:
			out[name] = strings.Trim(value, `"`)
		}
	}
	return out
}

// listed are the items of a key whose value is a list.
func listed(key string, lane *policy.Lane) (items []string, list bool) {
	switch key {
	case "uplink":
		for _, s := range lane.Uplink {
			items = append(items, s.String())
		}
	case "dns":
		for _, a := range lane.DNS {
			items = append(items, a.String())
		}
	case "allow":
		items = allowed(lane)
	default:
		return nil, false
	}
	return items, true
}
