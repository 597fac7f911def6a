package config

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func seed(f *testing.F, add func(string)) {
	files, err := filepath.Glob("testdata/*.toml")
	must(f, err)
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && len(data) < 4096 {
			add(string(data))
		}
	}
	add(commented)
	add("uplink = \"eth1\"\nmark = \"0x64/0xff\"\nallow = [\"host\"]")
	add("uplink = \"eth1\"\nbridge = true\nenabled = false\nallow = ['10.0.0.0/8']\r\nmark = 0b1 # x")
}

// Any bytes as a lane file and as uplane.toml: no panic, and every error has
// its place. What is taken is valid, and means the same when it is written
// again.
func FuzzParse(f *testing.F) {
	seed(f, func(s string) { f.Add(s) })
	f.Fuzz(func(t *testing.T, data string) {
		for _, defaults := range []bool{false, true} {
			_, errs := parse("f.toml", []byte(data), builtin, defaults)
			for _, err := range errs {
				var e *Error
				if !errors.As(err, &e) || e.File != "f.toml" || e.Msg == "" || e.Column < 1 ||
					e.Line < 1 || e.Line > 1+strings.Count(data, "\n") {
					t.Fatalf("%#v", err)
				}
				if strings.ContainsAny(err.Error(), "\x1b\n\x00") {
					t.Fatalf("%q is not fit to print", err)
				}
			}
		}
		s := source{file: "a.toml", data: []byte(data)}
		lane, errs := s.lane("a", builtin)
		if errs != nil {
			return
		}
		if err := Check(lane.lane); err != nil {
			t.Fatal(err)
		}
		again, errs := source{data: render(lane.lane, builtin)}.lane("a", builtin)
		if errs != nil || !same(lane.lane, again.lane) {
			t.Fatalf("%v\nhave %+v\nwant %+v", errs, again.lane, lane.lane)
		}
	})
}

// Any change to any file: either an error, or all other keys and all comments
// are as they were.
func FuzzEdit(f *testing.F) {
	seed(f, func(s string) {
		f.Add(s, "table", "7")
		f.Add(s, "uplink", "ssid:\"Home\"")
		f.Add(s, "dns", "")
	})
	f.Fuzz(func(t *testing.T, data, name, text string) {
		var change any = text
		switch {
		case text == "":
			change = nil
		case text == "true" || text == "false":
			change = text == "true"
		case strings.Trim(text, "0123456789") == "" && len(text) < 10:
			n := 0
			for _, c := range text {
				n = 10*n + int(c-'0')
			}
			change = n
		}
		edited, err := editText("f.toml", []byte(data), map[string]any{name: change})
		if err != nil {
			return
		}
		before, _ := parse("f.toml", []byte(data), builtin, false)
		after, errs := parse("f.toml", edited, builtin, false)
		if errs != nil {
			t.Fatal(errs)
		}
		for _, k := range keys {
			_, was := before.at[k.name]
			_, is := after.at[k.name]
			if k.name == name {
				if is != (change != nil) {
					t.Fatalf("%s is there: %v", name, is)
				}
			} else if was != is || k.show(before.settings) != k.show(after.settings) {
				t.Fatalf("%s changed with %s:\n%s", k.name, name, edited)
			}
		}
		if change == nil {
			return // the comment behind the key goes with it
		}
		lines := strings.Split(string(edited), "\n")
		for line := range strings.SplitSeq(data, "\n") {
			if strings.HasPrefix(line, "#") && !slices.Contains(lines, line) && !strings.Contains(data, "'''") && !strings.Contains(data, `"""`) {
				t.Fatalf("lost the comment %q:\n%s", line, edited)
			}
		}
	})
}
