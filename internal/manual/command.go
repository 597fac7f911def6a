package manual

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is uplane(1), from the command line's own tree.
func Command(root *cobra.Command, release string) string {
	p := newPage(root.Name(), 1, release, lowerFirst(root.Short))
	p.section("Synopsis")
	p.verbatim(root.Name() + " COMMAND [OPTION...] [ARGUMENT...]")
	p.section("Description")
	p.text(root.Long)
	p.verbatim(root.Example)
	p.section("Commands")
	p.commands(root)
	p.section("Exit status")
	p.item("0", "It is done.")
	p.item("1", "It failed; what to do next follows the error.")
	p.item("2", "The command line is wrong.")
	p.text("Of `uplane run` it is the program's own: see there.")
	p.section("Files")
	p.item("/etc/uplane/uplane.toml, /etc/uplane/lanes.d/*.toml", "Defaults for all lanes, and the lanes: see uplane.toml(5).")
	p.item("/var/lib/uplane", "What lanes were given, kept across reboots.")
	p.item("/run/netns/LANE", "A lane's network namespace, also for `ip netns exec`.")
	p.item("/etc/netns/LANE/resolv.conf", "Its DNS servers.")
	return p.seeAlso("uplaned(8), uplane.toml(5), org.uplane.Uplane1(5), ip-netns(8), nmcli(1)")
}

func (p *page) commands(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if !c.IsAvailableCommand() || c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		p.subsection(strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ") + strings.TrimPrefix(c.Use, c.Name()))
		if c.Long != "" {
			p.text(c.Long)
		} else {
			p.text(c.Short + ".")
		}
		p.flags(c.LocalFlags())
		if c.Example != "" {
			p.verbatim(c.Example)
		}
		p.commands(c)
	}
}

func (p *page) flags(f *pflag.FlagSet) {
	f.VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		kind, usage := pflag.UnquoteUsage(f)
		term := "--" + f.Name
		if kind != "" {
			term += " " + strings.TrimSuffix(strings.ToUpper(kind), "ARRAY")
		}
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
			usage += fmt.Sprintf(" (default: %s)", f.DefValue)
		}
		p.item(term, usage)
	})
}

func lowerFirst(s string) string { return strings.ToLower(s[:1]) + s[1:] }
