package policy

import (
	"math"
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

// TestLaneEqual changes each field of a lane: two that differ in one are not equal.
func TestLaneEqual(t *testing.T) {
	a := lane("steam", "wlp6s0")
	if b := lane("steam", "wlp6s0"); !a.equal(&b) {
		t.Error("a lane is not equal to itself")
	}
	for i := range reflect.TypeFor[Lane]().NumField() {
		b := lane("steam", "wlp6s0")
		field := reflect.ValueOf(&b).Elem().Field(i)
		switch v := field.Addr().Interface().(type) {
		case *[]Selector:
			*v = nil
		case *[]netip.Addr:
			*v = []netip.Addr{ipa("9.9.9.9")}
		case *[]netip.Prefix:
			*v = []netip.Prefix{pfx("10.0.0.0/8")}
		case *netip.Prefix:
			*v = pfx("10.0.0.0/8")
		case *netip.Addr:
			*v = ipa("9.9.9.9")
		case *bool:
			*v = !*v
		case *uint32:
			*v++
		default:
			field.SetString("else")
		}
		if a.equal(&b) {
			t.Errorf("another %s does not count", reflect.TypeFor[Lane]().Field(i).Name)
		}
	}
}

func TestCheckLaneName(t *testing.T) {
	for _, s := range []string{"a", "0", "steam", "a-b_c", strings.Repeat("x", 32)} {
		if err := CheckLaneName(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", "-a", "_a", "Steam", "a.b", "a/b", "..", "a b", "a\n", "é", strings.Repeat("x", 33)} {
		if CheckLaneName(s) == nil {
			t.Errorf("%q is let through", s)
		}
	}
}

func TestCheckInterfaceName(t *testing.T) {
	for _, s := range []string{"a", "br0", "wlp6s0", "eth0.100", "_x", "...", "A-1", strings.Repeat("x", 15)} {
		if err := CheckInterfaceName(s); err != nil {
			t.Error(err)
		}
	}
	for _, s := range []string{"", ".", "..", "all", "default", "-a", "a b", "a/b", "a:b", "a+", "a;b", "$a", "a\n", "é", strings.Repeat("x", 16)} {
		if CheckInterfaceName(s) == nil {
			t.Errorf("%q is let through", s)
		}
	}
}

func TestCheckTable(t *testing.T) {
	for _, n := range []uint32{1, 100, 252, 256, math.MaxUint32} {
		if err := CheckTable(n); err != nil {
			t.Error(err)
		}
	}
	for _, n := range []uint32{0, 253, 254, 255} {
		if CheckTable(n) == nil {
			t.Errorf("%d is let through", n)
		}
	}
}

func TestCheckSubnet(t *testing.T) {
	for _, s := range []string{"10.0.1.0/24", "10.0.0.0/8", "172.16.0.0/12", "192.168.1.4/30", "100.64.0.0/10", "198.51.100.0/24"} {
		if err := CheckSubnet(pfx(s)); err != nil {
			t.Error(err)
		}
	}
	for s, hint := range map[string]string{
		"10.0.1.1/24": "did you mean 10.0.1.0/24", "10.0.1.0/31": "8 to 30", "10.0.1.0/32": "8 to 30", "8.0.0.0/7": "8 to 30",
		"127.0.0.0/8": "not unicast", "224.0.0.0/8": "not unicast", "240.0.0.0/8": "not unicast", "0.0.0.0/8": "not unicast",
		"169.254.0.0/16": "not unicast", "fd00::/64": "IPv4", "::ffff:10.0.1.0/120": "IPv4",
	} {
		if err := CheckSubnet(pfx(s)); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("%s: %v", s, err)
		}
	}
	if CheckSubnet(netip.Prefix{}) == nil {
		t.Error("nothing is let through")
	}
}
