package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Element is an entry of one of the sets and maps of [Table]. Which of its fields
// count is its set's matter: [Sets] has each set's fields.
type Element struct {
	Set     SetName
	Family  Family
	In, Out string       // interfaces
	Net     netip.Prefix // masked
	// Value, of maps only: the chain to go on in, or the mark to set.
	Chain string
	Mark  uint32
}

func (e Element) key() key {
	order := string(rune('a' + slices.Index(elementOrder, e.Set)))
	return key{kind: kindElement, name: order + " " + e.Family.String() + " " + e.In + " " + e.Out, prefix: e.Net}
}

// elementOrder is the order in which elements are added; they are removed the other way round: what closes
// comes first, translation before what lets packets through, and the witness last.
var elementOrder = []SetName{Nets, LaneLinks, Closed, Uplinks, Masquerade, Allowed, Forward, OpenInput, Marks}

// dependsOn: an element goes with its table.
func (e Element) dependsOn() []key { return []key{Table{}.key()} }

// String is the element as nft writes it, without braces.
func (e Element) String() string {
	var parts []string
	for _, f := range Sets[e.Set].Fields {
		switch f {
		case FieldFamily:
			parts = append(parts, e.Family.String())
		case FieldIn:
			parts = append(parts, quoted(e.In))
		case FieldOut:
			parts = append(parts, quoted(e.Out))
		default:
			parts = append(parts, e.Net.String())
		}
	}
	text := strings.Join(parts, " . ")
	switch Sets[e.Set].Value {
	case ValueVerdict:
		text += " : goto " + e.Chain
	case ValueMark:
		text += fmt.Sprintf(" : %#x", e.Mark)
	}
	return text
}

func quoted(s string) string { return `"` + s + `"` }

func (e Element) add() []string {
	return []string{fmt.Sprintf("nft 'add element inet %s %s { %s }'", TableName, e.Set, e)}
}

func (e Element) remove() []string {
	key, _, _ := strings.Cut(e.String(), " : ")
	return []string{fmt.Sprintf("nft 'delete element inet %s %s { %s }'", TableName, e.Set, key)}
}

func (e Element) replace(have Object) []string {
	return append(have.(Element).remove(), e.add()...)
}
