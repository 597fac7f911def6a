package manual

import (
	"encoding/xml"
	"os"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"uplane/internal/config"
)

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile("../../" + path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestBus: nothing of the interface is missing in its page.
func TestBus(t *testing.T) {
	page, err := Bus(read(t, "docs/dbus.md"), "1.2.3")
	if err != nil {
		t.Fatal(err)
	}
	type named struct {
		Name string `xml:"name,attr"`
	}
	var node struct {
		Interfaces []struct {
			named
			Methods    []named `xml:"method"`
			Properties []named `xml:"property"`
		} `xml:"interface"`
	}
	if err := xml.Unmarshal([]byte(read(t, "packaging/dbus/org.uplane.Uplane1.xml")), &node); err != nil || len(node.Interfaces) != 2 {
		t.Fatal(err, node)
	}
	for _, i := range node.Interfaces {
		for _, n := range append(append(i.Methods, i.Properties...), i.named) {
			if !strings.Contains(page, `\fB`+n.Name) {
				t.Errorf("no %s in the page", n.Name)
			}
		}
	}
	for _, leftover := range []string{"](", "**", "```", "| "} {
		if strings.Contains(page, leftover) {
			t.Errorf("Markdown's %q is left in the page", leftover)
		}
	}
	if _, err := Bus("no heading", ""); err == nil {
		t.Error("a text without a heading")
	}
}

func TestConfig(t *testing.T) {
	page := Config("1.2.3")
	for _, k := range config.Reference() {
		if k.About == "" || k.Default == "" || !strings.Contains(page, `\fB`+k.Name+`\fR`) {
			t.Errorf("%s is not described", k.Name)
		}
	}
}

// TestCommand: every command, flag and word is there, and none reads as a request of man(7).
func TestCommand(t *testing.T) {
	root := &cobra.Command{Use: "prog", Short: "Do it", Long: "First `one`.\n\n.TH is no heading here, nor 'this.", Example: "  prog sub --flag  C:\\dir"}
	sub := &cobra.Command{Use: "sub LANE", Short: "Below", Run: func(*cobra.Command, []string) {}}
	sub.Flags().StringArray("uplink", nil, "where it leaves")
	sub.Flags().String("dir", "/etc", "a folder")
	hidden := &cobra.Command{Use: "secret", Hidden: true, Run: sub.Run}
	root.AddCommand(sub, hidden)
	page := Command(root, "1.2.3")
	for _, want := range []string{
		".TH PROG 1 \"\" \"Uplane 1.2.3\"", "prog \\- do it", "\\fBone\\fR", "\n\\&.TH is no heading here, nor 'this.\n", ".SS sub LANE\nBelow.\n",
		"\\fB\\-\\-uplink STRING\\fR\nwhere it leaves\n", "\\fB\\-\\-dir STRING\\fR\na folder (default: /etc)\n", "prog sub \\-\\-flag  C:\\edir",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in\n%s", want, page)
		}
	}
	if strings.Contains(page, "secret") {
		t.Error("a hidden command shows")
	}
}
