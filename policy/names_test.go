package policy

import (
	"slices"
	"strings"
	"testing"
)

func TestSwitch(t *testing.T) {
	const before, after = "passwd: files systemd\n", "networks: files\n"
	for hosts, want := range map[string]string{
		"hosts: files mdns4_minimal [NOTFOUND=return] resolve [!UNAVAIL=return] dns myhostname # all\n": "hosts: files myhostname dns\n",
		"hosts: dns files\n":               "hosts: files dns\n",
		"hosts:\tresolve\n":                "hosts: dns\n",
		" hosts : files wins\n":            "hosts: files dns\n",
		"hosts: files\nhosts: resolve\n":   "hosts: files dns\n",
		"group: a [SUCCESS=merge] b 'x'\n": "group: a [SUCCESS=merge] b\n",
		"no database\n\n#x: y\na b: c\n":   "",
	} {
		want = before + want + after
		if !strings.Contains(want, "hosts:") {
			want += "hosts: files dns\n"
		}
		got := nsswitch("steam", before+hosts+after)
		if _, text, _ := strings.Cut(got.Content, "\n"); got.Path != "/etc/netns/steam/nsswitch.conf" || text != want {
			t.Errorf("%q becomes\n%s\nnot\n%s", hosts, got.Content, want)
		}
	}
}

func FuzzSwitch(f *testing.F) {
	f.Add("hosts: files resolve\n")
	f.Add("hosts: mdns\nhosts: dns")
	f.Fuzz(func(t *testing.T, host string) {
		got := nsswitch("steam", host)
		found := 0
		for line := range strings.Lines(got.Content) {
			text, _, _ := strings.Cut(line, "#")
			database, sources, ok := strings.Cut(text, ":")
			if !ok || strings.TrimSpace(database) != "hosts" {
				continue
			}
			found++
			for source := range strings.FieldsSeq(sources) {
				if source != "dns" && !slices.Contains(localSources, source) {
					t.Errorf("%q asks %q", host, source)
				}
			}
		}
		if found != 1 || strings.ContainsAny(got.Content, "'\x00\r") {
			t.Errorf("%q becomes %q", host, got.Content)
		}
	})
}
