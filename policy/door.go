package policy

import "fmt"

// Door is what lets lanes' packets through the chains of another firewall: an
// accept in one of our own chains does not override a drop in another's. It
// stands at the end of what the administrator may veto.
type Door struct {
	Tool  string // the iptables command whose FORWARD chain drops
	Sound bool   // there is one, and it stands right
}

// Tools of Door.
const (
	IPTables       = "iptables" // the variant that nf_tables keeps
	IPTablesLegacy = "iptables-legacy"
)

// DoorComment marks the rule as ours.
const DoorComment = "uplane: lanes"

// DoorRule is the rule that is a door, without its chain. What our table has
// marked is a lane's, in either direction; a link group would not do, as a
// bridge of NetworkManager's is in none of ours.
func DoorRule() []string {
	return []string{"-m", "mark", "--mark", fmt.Sprintf("%#x/%#x", Witness, Witness), "-m", "comment", "--comment", DoorComment, "-j", TargetAccept}
}

func (d Door) key() key { return key{kind: kindDoor, name: d.Tool} }

func (d Door) rule() string {
	return fmt.Sprintf("FORWARD -m mark --mark %#x/%#x -m comment --comment '%s' -j %s", Witness, Witness, DoorComment, TargetAccept)
}

func (d Door) add() []string           { return []string{d.Tool + " -A " + d.rule()} }
func (d Door) replace(Object) []string { return append(d.remove(), d.add()...) }
func (d Door) remove() []string        { return []string{d.Tool + " -D " + d.rule()} }
