package kernel

import (
	"golang.org/x/sys/unix"

	"uplane/policy"
)

// families is a set of address families.
type families uint8

const (
	v4 families = 1 << iota
	v6

	bothFamilies = v4 | v6
)

// familiesOf is the set of one family, by the kernel's number; empty for one that lanes have nothing of.
func familiesOf(af uint8) families {
	switch af {
	case unix.AF_INET:
		return v4
	case unix.AF_INET6:
		return v6
	}
	return 0
}

// each calls f with the kernel's number of each family in s, until it fails.
func (s families) each(f func(af uint8) error) error {
	for _, af := range []uint8{unix.AF_INET, unix.AF_INET6} {
		if s&familiesOf(af) != 0 {
			if err := f(af); err != nil {
				return err
			}
		}
	}
	return nil
}

func familyNumber(f policy.Family) uint8 {
	if f == policy.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func familyOf(af uint8) policy.Family {
	if af == unix.AF_INET6 {
		return policy.IPv6
	}
	return policy.IPv4
}
