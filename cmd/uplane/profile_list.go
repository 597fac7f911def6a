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
		d, err := openDesk(c)
		if err != nil {
			return err
		}
		shown := d.show("")
		if *asJSON {
			return printJSON(shown)
		}
		return printProfiles(os.Stdout, shown)
	}
	return c
}

type shownProfiles struct {
	Profiles []shownProfile `json:"profiles"`
	Networks []shownNetwork `json:"networks"`
}

// shownProfile is a lane's profile in the form of --json. The form is stable: keys are added, never renamed.
type shownProfile struct {
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

// shownNetwork is a network that serves some lanes only.
type shownNetwork struct {
	Name   string   `json:"name"`
	UUID   string   `json:"uuid"`
	Lanes  []string `json:"lanes"`
	Active bool     `json:"active"`
}

// show is all of the profiles that concern lanes, or of one lane.
func (d *desk) show(lane string) shownProfiles {
	out := shownProfiles{[]shownProfile{}, []shownNetwork{}}
	for _, p := range d.all {
		if p.Lane != "" && (lane == "" || p.Lane == lane) {
			out.Profiles = append(out.Profiles, d.showOne(p))
		}
		if p.Limited && lane == "" {
			out.Networks = append(out.Networks, shownNetwork{p.Name, p.UUID, append([]string{}, p.Lanes...), p.Active})
		}
	}
	return out
}

func (d *desk) showOne(p nm.Stored) shownProfile {
	s := shownProfile{Lane: p.Lane, Name: p.Name, UUID: p.UUID, Bridge: p.Interface, Active: p.Active, Uplink: []string{}, Keys: p.Keys}
	if s.Keys == nil {
		s.Keys = map[string]string{}
	}
	var problems []string
	lane, err := d.config.FromProfile(p.Lane, p.Keys)
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
	if file, exists := d.file(p.Lane); exists {
		problems = append(problems, file.File+" defines the lane too, and does not count beside the profile: delete one of them")
	}
	s.Problem = strings.Join(problems, "; ")
	return s
}

func printProfiles(w io.Writer, shown shownProfiles) error {
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
