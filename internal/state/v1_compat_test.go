package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// What is here is the first release's reading of its files, copied and never to be
// changed: it is installed on machines, and a file that it refuses is lost to it as a whole.

type oldStateFile struct {
	Version int `json:"version"`
	Data    struct {
		Lanes map[string]struct {
			Allocation struct {
				Subnet netip.Prefix
				Table  uint32
				Bridge string
				Veth   string
			} `json:"allocation"`
			Definition *oldLane `json:"definition,omitempty"`
		} `json:"lanes"`
	} `json:"data"`
}

type oldLane struct {
	Name     string
	Uplink   []struct{ Kind, Value string }
	Subnet   netip.Prefix
	Table    uint32
	Mark     uint32
	Bridge   string
	NoBridge bool
	DNS      []netip.Addr
	Allow    []netip.Prefix
	IPv6     string
	Enabled  bool
	External bool       `json:",omitzero"`
	Gateway  netip.Addr `json:",omitzero"`
}

type oldRunFile struct {
	Version int `json:"version"`
	Data    struct {
		Lanes map[string]struct {
			Want   string `json:"want,omitempty"`
			Uplink *struct {
				Interface  string
				Type       string
				Connection string
				UUID       string
				SSID       string
				Phase      int
				Addresses  []netip.Prefix
				Routes     []struct {
					Dst    netip.Prefix
					Via    netip.Addr
					Metric uint32
				}
				DNS     []netip.Addr
				Search  []string
				Private bool
				Limited bool
				Lanes   []string
			} `json:"uplink,omitempty"`
			Profile bool `json:"profile,omitempty"`
		} `json:"lanes,omitempty"`
		Sysctl      map[string]int `json:"sysctl,omitempty"`
		Tables      []string       `json:"tables,omitempty"`
		Directories []string       `json:"directories,omitempty"`
	} `json:"data"`
}

// oldTakes returns an error unless the first release takes both files; an empty
// one is not there.
func oldTakes(state, run []byte) error {
	if len(state) > 0 {
		if err := oldTakesState(state); err != nil {
			return fmt.Errorf("state.json: %w", err)
		}
	}
	if len(run) > 0 {
		if err := oldTakesRun(run); err != nil {
			return fmt.Errorf("run.json: %w", err)
		}
	}
	return nil
}

func oldDecode(data []byte, file any) error {
	if len(data) > 4<<20 {
		return errors.New("too large")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(file); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("there is something behind the end")
	}
	if v := reflect.ValueOf(file).Elem().FieldByName("Version").Int(); v != 1 {
		return fmt.Errorf("version %d", v)
	}
	return nil
}

func oldTakesState(data []byte) error {
	var f oldStateFile
	if err := oldDecode(data, &f); err != nil {
		return err
	}
	for name, l := range f.Data.Lanes {
		a := l.Allocation
		switch {
		case !oldLaneName.MatchString(name):
			return fmt.Errorf("lane name %q", name)
		case a.Subnet.IsValid() && !oldSubnet(a.Subnet):
			return fmt.Errorf("allocation: subnet %v", a.Subnet)
		case a.Table != 0 && !oldTable(a.Table):
			return fmt.Errorf("allocation: table %v", a.Table)
		case a.Bridge != "" && !oldInterface(a.Bridge):
			return fmt.Errorf("allocation: bridge %q", a.Bridge)
		case a.Veth != "" && !oldInterface(a.Veth):
			return fmt.Errorf("allocation: veth %q", a.Veth)
		}
		if l.Definition == nil {
			continue
		}
		if l.Definition.Name != name {
			return fmt.Errorf("definition of another lane %q", l.Definition.Name)
		}
		if err := l.Definition.check(); err != nil {
			return err
		}
	}
	return nil
}

// check is what config.Check came to: each value went through the lane file's parser.
func (l *oldLane) check() error {
	if len(l.Uplink) == 0 || len(l.Uplink) > 16 {
		return fmt.Errorf("%d uplinks", len(l.Uplink))
	}
	for i, s := range l.Uplink {
		switch {
		case !slices.Contains([]string{"interface", "connection", "uuid", "ssid", "type"}, s.Kind),
			s.Value == "", len(s.Value) > 255,
			strings.ContainsFunc(s.Value, func(r rune) bool { return unicode.IsControl(r) || r == utf8.RuneError }),
			s.Kind == "interface" && !oldInterface(s.Value),
			slices.Contains(l.Uplink[:i], s):
			return fmt.Errorf("uplink %q", s)
		}
	}
	switch {
	case l.Subnet.IsValid() && !oldSubnet(l.Subnet):
		return fmt.Errorf("subnet %v", l.Subnet)
	case l.Table != 0 && !oldTable(l.Table):
		return fmt.Errorf("table %d", l.Table)
	case l.Bridge != "" && (l.NoBridge || l.Bridge == "lo" || !oldInterface(l.Bridge)):
		return fmt.Errorf("bridge %q", l.Bridge)
	case len(l.DNS) > 3:
		return fmt.Errorf("%d DNS servers", len(l.DNS))
	case len(l.Allow) > 64:
		return fmt.Errorf("%d allowed networks", len(l.Allow))
	case l.IPv6 != "auto" && l.IPv6 != "off":
		return fmt.Errorf("ipv6 %q", l.IPv6)
	}
	for i, a := range l.DNS {
		if !a.IsValid() || a.IsLoopback() || a.Zone() != "" || a.IsLinkLocalUnicast() || a.IsUnspecified() || a.IsMulticast() || a.Is4In6() ||
			a == netip.MustParseAddr("255.255.255.255") || slices.Contains(l.DNS[:i], a) {
			return fmt.Errorf("dns %v", a)
		}
	}
	for i, p := range l.Allow {
		a := p.Addr()
		if !a.Is4() || p != p.Masked() || p.Bits() < 8 || a.IsLoopback() || a.IsMulticast() || a.As4()[0] == 0 || a.As4()[0] >= 240 || slices.Contains(l.Allow[:i], p) {
			return fmt.Errorf("allow %v", p)
		}
	}
	return nil
}

func oldTakesRun(data []byte) error {
	var f oldRunFile
	if err := oldDecode(data, &f); err != nil {
		return err
	}
	for name, l := range f.Data.Lanes {
		switch {
		case !oldLaneName.MatchString(name):
			return fmt.Errorf("lane name %q", name)
		case l.Want != "" && l.Want != "up" && l.Want != "down":
			return fmt.Errorf("want %q", l.Want)
		case l.Uplink != nil && !oldInterface(l.Uplink.Interface):
			return fmt.Errorf("uplink %q", l.Uplink.Interface)
		}
	}
	for key, value := range f.Data.Sysctl {
		_, rest, _ := strings.Cut(key, "/conf/")
		link, _, _ := strings.Cut(rest, "/")
		if key != "net/bridge/conf/"+link+"/stp_state" && !oldSysctl.MatchString(key) || !oldInterface(link) || value < 0 || value > 255 {
			return fmt.Errorf("sysctl %s=%d", key, value)
		}
	}
	for _, t := range f.Data.Tables {
		if !oldChain.MatchString(t) {
			return fmt.Errorf("table %q", t)
		}
	}
	for _, d := range f.Data.Directories {
		if filepath.Clean(d) != d || !strings.HasPrefix(d, "/etc/") && !strings.HasPrefix(d, "/run/") {
			return fmt.Errorf("directory %q", d)
		}
	}
	return nil
}

var (
	oldLaneName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,31}$`)
	oldIface    = regexp.MustCompile(`^[A-Za-z0-9._][A-Za-z0-9._-]{0,14}$`)
	oldSysctl   = regexp.MustCompile(`^net/ipv[46]/conf/[^/]+/(?:forwarding|arp_ignore|arp_announce|disable_ipv6)$`)
	oldChain    = regexp.MustCompile(`^(?:filter|nat|mangle)(?: [A-Z]{1,31})?$`)
)

func oldInterface(name string) bool {
	return oldIface.MatchString(name) && !slices.Contains([]string{".", "..", "all", "default"}, name)
}

func oldTable(n uint32) bool { return n != 0 && (n < 253 || n > 255) }

func oldSubnet(p netip.Prefix) bool {
	a := p.Addr()
	return a.Is4() && p == p.Masked() && p.Bits() >= 8 && p.Bits() <= 30 && !a.IsMulticast() && !a.IsLoopback() && !a.IsLinkLocalUnicast() &&
		a.As4()[0] < 240 && a.As4()[0] != 0
}
