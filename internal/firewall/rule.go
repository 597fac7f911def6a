package firewall

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// rule is one of the shapes that package policy writes:
//
//	[[!] -s PREFIX] [[!] -d PREFIX] [[!] -i IF] [[!] -o IF] [-m conntrack --ctstate RELATED,ESTABLISHED]
//	-j ACCEPT | DROP | MASQUERADE | MARK --set-xmark 0xN/0xM
type rule struct {
	source, destination match[netip.Prefix]
	in, out             match[string]
	established         bool // belongs to a connection that is known already
	target              string
	mark, mask          uint32 // of target MARK: the mark becomes (old &^ mask) ^ mark
}

// match is a condition on one property of a packet.
type match[T comparable] struct {
	set, not bool
	value    T
}

const (
	conntrackMatch = "conntrack"
	ctstate        = "RELATED,ESTABLISHED"
)

// parseRule reads a rule as "iptables -S" prints it, and nothing else: another order, an option that is not listed
// above, or a prefix with host bits is an error.
func parseRule(text string) (rule, error) {
	var r rule
	words := strings.Split(text, " ")
	next := func() string {
		if len(words) == 0 {
			return ""
		}
		w := words[0]
		words = words[1:]
		return w
	}
	var err error
	not := false
	for len(words) > 0 && err == nil && r.target == "" {
		switch option := next(); option {
		case "!":
			not = true
			continue
		case "-s":
			r.source, err = matchPrefix(next(), not)
		case "-d":
			r.destination, err = matchPrefix(next(), not)
		case "-i":
			r.in, err = matchInterface(next(), not)
		case "-o":
			r.out, err = matchInterface(next(), not)
		case "-m":
			if module, name, states := next(), next(), next(); module != conntrackMatch || name != "--ctstate" || states != ctstate {
				err = fmt.Errorf("only %s --ctstate %s can be matched", conntrackMatch, ctstate)
			}
			r.established = true
		case "-j":
			err = r.parseTarget(next(), next)
		default:
			err = fmt.Errorf("unknown option %q", option)
		}
		not = false
	}
	if err == nil && r.String() != text {
		err = fmt.Errorf("not as iptables prints it")
	}
	if err != nil {
		return rule{}, fmt.Errorf("rule %q: %w", text, err)
	}
	return r, nil
}

func (r *rule) parseTarget(name string, next func() string) error {
	r.target = name
	switch name {
	case "ACCEPT", "DROP", "MASQUERADE":
		return nil
	case "MARK":
		if option := next(); option != "--set-xmark" {
			return fmt.Errorf("unknown option %q of MARK", option)
		}
		mark, mask, _ := strings.Cut(next(), "/")
		var err error
		if r.mark, err = parseHex(mark); err == nil {
			r.mask, err = parseHex(mask)
		}
		return err
	}
	return fmt.Errorf("unknown target %q", name)
}

func matchPrefix(text string, not bool) (match[netip.Prefix], error) {
	p, err := netip.ParsePrefix(text)
	if err == nil && (!p.Addr().Is4() || p != p.Masked() || p.Bits() == 0) {
		err = fmt.Errorf("%q: must be an IPv4 network that is not everything", text)
	}
	return match[netip.Prefix]{true, not, p}, err
}

// matchInterface refuses a trailing +, by which iptables means every name that starts so.
func matchInterface(text string, not bool) (match[string], error) {
	if text == "" || len(text) > 15 || strings.ContainsAny(text, "/+\"\x00") || strings.ContainsFunc(text, isControl) {
		return match[string]{}, fmt.Errorf("%q: must be an interface's name", text)
	}
	return match[string]{true, not, text}, nil
}

func isControl(c rune) bool { return c <= ' ' || c == 0x7f }

func parseHex(text string) (uint32, error) {
	digits, ok := strings.CutPrefix(text, "0x")
	n, err := strconv.ParseUint(digits, 16, 32)
	if !ok || err != nil {
		return 0, fmt.Errorf("%q: must be a 32-bit number in hexadecimal", text)
	}
	return uint32(n), nil
}

// String is the rule as "iptables -S" prints it, without "-A CHAIN ".
func (r rule) String() string {
	var words []string
	add := func(w ...string) { words = append(words, w...) }
	option := func(set, not bool, name, value string) {
		if not {
			add("!")
		}
		if set {
			add(name, value)
		}
	}
	option(r.source.set, r.source.not, "-s", r.source.value.String())
	option(r.destination.set, r.destination.not, "-d", r.destination.value.String())
	option(r.in.set, r.in.not, "-i", r.in.value)
	option(r.out.set, r.out.not, "-o", r.out.value)
	if r.established {
		add("-m", conntrackMatch, "--ctstate", ctstate)
	}
	add("-j", r.target)
	if r.target == "MARK" {
		add("--set-xmark", fmt.Sprintf("%#x/%#x", r.mark, r.mask))
	}
	return strings.Join(words, " ")
}
