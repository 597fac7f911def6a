package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"uplane/nm"
)

func profileListCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "list",
		Short: "List lanes' profiles, and networks that serve some lanes only",
		Args:  laneArgs(0, 0),
	}
	asJSON := c.Flags().Bool("json", false, "for programs")
	c.RunE = func(c *cobra.Command, _ []string) error {
		ps, err := openProfiles(c)
		if err != nil {
			return err
		}
		shown := ps.describe("")
		if *asJSON {
			return printJSON(shown)
		}
		return printProfiles(os.Stdout, shown)
	}
	return c
}

// profileList is what --json prints; docs/json.md describes it.
type profileList struct {
	Profiles []profileEntry `json:"profiles"`
	Networks []networkEntry `json:"networks"`
}

// profileEntry is a lane's profile in --json. The format is stable: keys are added, never renamed.
type profileEntry struct {
	Lane    string            `json:"lane"`
	Name    string            `json:"name"`
	UUID    string            `json:"uuid"`
	Bridge  string            `json:"bridge"`
	Address string            `json:"address"` // of the bridge, with its prefix length; empty: none
	Uplink  []string          `json:"uplink"`  // in order of preference; that of uplane.toml where the profile says nothing
	Keys    map[string]string `json:"keys"`    // all user keys but the lane's name
	Active  bool              `json:"active"`
	Problem string            `json:"problem"` // empty: none
}

// networkEntry is the profile of a network that serves some lanes only.
type networkEntry struct {
	Name   string   `json:"name"`
	UUID   string   `json:"uuid"`
	Lanes  []string `json:"lanes"`
	Active bool     `json:"active"`
}

// describe returns all profiles that concern lanes, or those of one lane.
func (ps *profiles) describe(lane string) profileList {
	out := profileList{[]profileEntry{}, []networkEntry{}}
	for _, p := range ps.all {
		if p.Lane != "" && (lane == "" || p.Lane == lane) {
			out.Profiles = append(out.Profiles, ps.describeOne(p))
		}
		if p.Limited && lane == "" {
			out.Networks = append(out.Networks, networkEntry{p.Name, p.UUID, append([]string{}, p.Lanes...), p.Active})
		}
	}
	return out
}

func (ps *profiles) describeOne(p nm.Stored) profileEntry {
	s := profileEntry{Lane: p.Lane, Name: p.Name, UUID: p.UUID, Bridge: p.Interface, Active: p.Active, Uplink: []string{}, Keys: p.Keys}
	if s.Keys == nil {
		s.Keys = map[string]string{}
	}
	var problems []string
	lane, err := ps.config.FromProfile(p.Lane, p.Keys)
	if err != nil {
		problems = append(problems, err.Error())
	} else {
		s.Uplink = texts(lane.Uplink)
	}
	if p.Address.IsValid() {
		s.Address = p.Address.String()
	} else {
		problems = append(problems, "it has no IPv4 address: nmcli connection modify, with ipv4.method manual and ipv4.addresses 10.0.1.1/24 or the like")
	}
	if file, exists := ps.laneFile(p.Lane); exists {
		problems = append(problems, file.File+" defines the lane too, and does not count beside the profile: delete one of them")
	}
	s.Problem = strings.Join(problems, "; ")
	return s
}

func printProfiles(w io.Writer, shown profileList) error {
	if len(shown.Profiles)+len(shown.Networks) == 0 {
		fmt.Fprintln(w, "no profiles of lanes yet; try: uplane profile add steam --uplink wlp6s0")
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(shown.Profiles) > 0 {
		fmt.Fprintln(t, "LANE\tPROFILE\tACTIVE\tBRIDGE\tADDRESS\tUPLINK\tPROBLEM")
	}
	for _, p := range shown.Profiles {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Lane, p.Name, yesNo(p.Active), dash(p.Bridge), dash(p.Address), dash(strings.Join(p.Uplink, ",")), p.Problem)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if len(shown.Networks) == 0 {
		return nil
	}
	if len(shown.Profiles) > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintln(t, "NETWORK\tACTIVE\tSERVES ONLY")
	for _, n := range shown.Networks {
		fmt.Fprintf(t, "%s\t%s\t%s\n", n.Name, yesNo(n.Active), dash(strings.Join(n.Lanes, ", ")))
	}
	return t.Flush()
}
