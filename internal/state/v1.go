package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"

	"uplane/policy"
)

// Version 1 is frozen: the first release refuses a whole file that has one field,
// key or value more than it knows. What is newer is in the files of version 2.

// stateV1 is the data of state.json.
type stateV1 struct {
	Lanes map[string]stateLaneV1 `json:"lanes"` // by lane name
}

type stateLaneV1 struct {
	Allocation allocationV1 `json:"allocation"`
	Definition *laneV1      `json:"definition,omitempty"`
}

type allocationV1 struct {
	Subnet netip.Prefix
	Table  uint32
	Bridge string
	Veth   string
}

type laneV1 struct {
	Name     string
	Uplink   []selectorV1
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

type selectorV1 struct{ Kind, Value string }

// runV1 is the data of run.json.
type runV1 struct {
	Lanes map[string]runLaneV1 `json:"lanes,omitempty"` // by lane name
	undoV1
}

// undoV1 is what runV1 has beside lanes.
type undoV1 struct {
	Sysctl      map[string]int `json:"sysctl,omitempty"`
	Tables      []string       `json:"tables,omitempty"`
	Directories []string       `json:"directories,omitempty"`
}

type runLaneV1 struct {
	Want    string    `json:"want,omitempty"`
	Uplink  *uplinkV1 `json:"uplink,omitempty"`
	Profile bool      `json:"profile,omitempty"`
}

type uplinkV1 struct {
	Interface  string
	Type       string
	Connection string
	UUID       string
	SSID       string
	Phase      int // 0 down, 1 changing, 2 active
	Addresses  []netip.Prefix
	Routes     []routeV1
	DNS        []netip.Addr
	Search     []string
	Private    bool
	Limited    bool
	Lanes      []string
}

type routeV1 struct {
	Dst    netip.Prefix
	Via    netip.Addr
	Metric uint32
}

// decodeV1 is strict: it takes no field that version 1 does not have, nothing
// behind the end, no other version, and no value that does not pass its check.
func decodeV1[T interface{ check() error }](data []byte) (T, error) {
	var none T
	if err := checkVersion(data, 1); err != nil {
		return none, err
	}
	var f struct {
		Version int `json:"version"`
		Data    T   `json:"data"`
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return none, err
	}
	if _, err := d.Token(); err != io.EOF {
		return none, errors.New("there is something behind the end")
	}
	if err := f.Data.check(); err != nil {
		return none, err
	}
	return f.Data, nil
}

func (s stateV1) check() error {
	for name, l := range s.Lanes {
		if err := policy.CheckLaneName(name); err != nil {
			return err
		}
		if err := l.Allocation.check(); err != nil {
			return fmt.Errorf("lane %q: allocation: %w", name, err)
		}
		if l.Definition != nil && l.Definition.Name != name {
			return fmt.Errorf("lane %q: definition: it is that of lane %.40q", name, l.Definition.Name)
		}
	}
	return nil
}

// check takes an allocation with parts missing, as a lane has for which nothing
// free was left.
func (a allocationV1) check() error {
	if a.Subnet != (netip.Prefix{}) {
		if err := policy.CheckSubnet(a.Subnet); err != nil {
			return err
		}
	}
	// The first release gave this table to a lane that asked for it.
	if a.Table != 0 && a.Table != policy.LanesTable {
		if err := policy.CheckTable(a.Table); err != nil {
			return err
		}
	}
	for _, name := range []string{a.Bridge, a.Veth} {
		if name != "" {
			if err := policy.CheckInterfaceName(name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r runV1) check() error {
	for name, l := range r.Lanes {
		if err := policy.CheckLaneName(name); err != nil {
			return err
		}
		if err := l.check(); err != nil {
			return fmt.Errorf("lane %q: %w", name, err)
		}
	}
	for key, value := range r.Sysctl {
		if !isSysctlV1(key) {
			return fmt.Errorf("invalid sysctl %.80q: it is none of ours", key)
		}
		if err := checkSysctl(key, value); err != nil {
			return err
		}
	}
	for _, t := range r.Tables {
		if err := checkTable(t); err != nil {
			return err
		}
	}
	for _, d := range r.Directories {
		if err := checkDirectory(d); err != nil {
			return err
		}
	}
	return nil
}

func (l runLaneV1) check() error {
	switch policy.Want(l.Want) {
	case "", policy.WantUp, policy.WantDown:
	default:
		return fmt.Errorf("invalid want %.40q", l.Want)
	}
	if l.Uplink == nil {
		return nil
	}
	if err := policy.CheckInterfaceName(l.Uplink.Interface); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	if l.Uplink.Phase < 0 || l.Uplink.Phase >= len(phases) {
		return fmt.Errorf("uplink: invalid phase %d", l.Uplink.Phase)
	}
	for _, p := range l.Uplink.Addresses {
		if !p.IsValid() {
			return errors.New("uplink: invalid address")
		}
	}
	for _, r := range l.Uplink.Routes {
		if !r.Dst.IsValid() {
			return errors.New("uplink: invalid route")
		}
	}
	return nil
}

// Interface names have dots, so keys are in the kernel's notation with slashes.
var (
	sysctlKeyV1 = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^net/ipv[46]/conf/[^/]+/(?:forwarding|arp_ignore|arp_announce|disable_ipv6)$`)
	})
	sysctlKeyV2 = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^net/ipv4/conf/[^/]+/(?:src_valid_mark|rp_filter)$`)
	})
)

func isSysctlV1(key string) bool {
	return policy.Sysctl{Key: key}.IsSTP() || sysctlKeyV1().MatchString(key)
}

// maxSysctl is above the largest meaning that any of these switches has, 8 of
// arp_ignore in ip-sysctl.rst, and below what could be mistaken for one.
const maxSysctl = 255

// checkSysctl takes the switches of both versions. The names all and default stand
// for every interface together: a lane never switches anything host-wide.
func checkSysctl(key string, value int) error {
	if !isSysctlV1(key) && !sysctlKeyV2().MatchString(key) {
		return fmt.Errorf("invalid sysctl %.80q: it is none of ours", key)
	}
	if err := policy.CheckInterfaceName(policy.Sysctl{Key: key}.Link()); err != nil {
		return fmt.Errorf("invalid sysctl %.80q: %w", key, err)
	}
	if value < 0 || value > maxSysctl {
		return fmt.Errorf("invalid sysctl %s=%d: use 0 to %d", key, value, maxSysctl)
	}
	return nil
}

var nftTable = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:filter|nat|mangle)(?: [A-Z]{1,31})?$`) })

func checkTable(name string) error {
	if !nftTable().MatchString(name) {
		return fmt.Errorf("invalid firewall table %.80q", name)
	}
	return nil
}

// checkDirectory takes folders under those whose content comes and goes; the
// parents themselves stay.
func checkDirectory(dir string) error {
	if filepath.Clean(dir) == dir {
		for _, parent := range []string{"/etc/", "/run/"} {
			if strings.HasPrefix(dir, parent) {
				return nil
			}
		}
	}
	return fmt.Errorf("invalid directory %.80q: use one below /etc or /run", dir)
}

// known tells whether the first release takes l, which it knows nothing newer
// than these of.
func (l *laneV1) known() bool {
	for _, s := range l.Uplink {
		if !slices.Contains([]string{"interface", "connection", "uuid", "ssid", "type"}, s.Kind) {
			return false
		}
	}
	for _, p := range l.Allow {
		if !p.Addr().Is4() {
			return false
		}
	}
	return l.IPv6 == "auto" || l.IPv6 == "off"
}

func lanePartV1(l *policy.Lane) laneV1 {
	v := laneV1{
		Name: l.Name, Subnet: l.Subnet, Table: l.Table, Mark: l.Mark, Bridge: l.Bridge, NoBridge: l.NoBridge,
		DNS: l.DNS, Allow: l.Allow, IPv6: string(l.IPv6), Enabled: l.Enabled, External: l.External, Gateway: l.Gateway,
	}
	for _, s := range l.Uplink {
		v.Uplink = append(v.Uplink, selectorV1{string(s.Kind), s.Value})
	}
	return v
}

func (l *laneV1) lane() policy.Lane {
	p := policy.Lane{
		Name: l.Name, Subnet: l.Subnet, Table: l.Table, Mark: l.Mark, Bridge: l.Bridge, NoBridge: l.NoBridge,
		DNS: l.DNS, Allow: l.Allow, IPv6: policy.IPv6Mode(l.IPv6), Enabled: l.Enabled, External: l.External, Gateway: l.Gateway,
	}
	for _, s := range l.Uplink {
		p.Uplink = append(p.Uplink, policy.Selector{Kind: policy.SelectorKind(s.Kind), Value: s.Value})
	}
	return p
}

// phases are what uplinkV1's numbers mean.
var phases = []policy.Phase{policy.PhaseDown, policy.PhaseChanging, policy.PhaseActive}

func newUplinkV1(u *policy.Uplink) *uplinkV1 {
	if u == nil {
		return nil
	}
	v := &uplinkV1{
		Interface: u.Interface, Type: u.Type, Connection: u.Connection, UUID: u.UUID, SSID: u.SSID,
		Phase: slices.Index(phases, u.Phase), Addresses: u.Addresses, DNS: u.DNS, Search: u.Search,
		Private: u.Private, Limited: u.Limited, Lanes: u.Lanes,
	}
	for _, r := range u.Routes {
		v.Routes = append(v.Routes, routeV1(r))
	}
	return v
}

func (v *uplinkV1) uplink() *policy.Uplink {
	if v == nil {
		return nil
	}
	u := &policy.Uplink{
		Interface: v.Interface, Type: v.Type, Connection: v.Connection, UUID: v.UUID, SSID: v.SSID,
		Phase: phases[v.Phase], Addresses: v.Addresses, DNS: v.DNS, Search: v.Search,
		Private: v.Private, Limited: v.Limited, Lanes: v.Lanes,
	}
	for _, r := range v.Routes {
		u.Routes = append(u.Routes, policy.UplinkRoute(r))
	}
	return u
}
