package main

import (
	"fmt"
	"maps"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// documents are what commands print with --json.
var documents = map[string]any{
	"uplane status":       statusDocument{},
	"uplane ps":           psDocument{},
	"uplane desktop list": desktopDocument{},
	"uplane profile list": profileList{},
}

// sameDocument are commands whose document is another one's, which their text names.
var sameDocument = map[string]string{"uplane profile show": "uplane profile list"}

// TestJSONDoc compares docs/json.md with the commands and what they print.
func TestJSONDoc(t *testing.T) {
	sections := jsonSections(t)
	var walk func(*cobra.Command)
	walk = func(c *cobra.Command) {
		name := c.CommandPath()
		if c.Flags().Lookup("json") != nil {
			text, described := sections[name]
			delete(sections, name)
			document, known := documents[name]
			switch {
			case !described || !known && sameDocument[name] == "":
				t.Errorf("docs/json.md or this test lacks %s", name)
			case !known:
				if !strings.Contains(text, "`"+sameDocument[name]+" --json`") {
					t.Errorf("%s: no word of %s", name, sameDocument[name])
				}
			default:
				want := map[string]string{}
				addFields(want, "", reflect.TypeOf(document))
				compare(t, name, rows(text, 3), want)
			}
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root := command()
	walk(root)
	for name := range sections {
		t.Errorf("docs/json.md describes %s", name)
	}
}

// TestConditionTypesDoc compares docs/json.md with the types of conditions.
func TestConditionTypesDoc(t *testing.T) {
	source, err := os.ReadFile("../../policy/condition.go")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{}
	for _, m := range regexp.MustCompile(`ConditionType += "(\w+)"`).FindAllStringSubmatch(string(source), -1) {
		want[m[1]] = ""
	}
	got := rows(jsonSections(t)["uplane status"], 2)
	for name := range got {
		got[name] = ""
	}
	if len(want) == 0 {
		t.Error("policy has no types")
	}
	compare(t, "types of conditions", got, want)
}

// jsonSections are the sections of docs/json.md, by command.
func jsonSections(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../docs/json.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, section := range strings.Split(string(text), "\n## ")[1:] {
		title, body, _ := strings.Cut(section, "\n")
		out[strings.TrimSuffix(title, " --json")] = body
	}
	return out
}

// rows are the second cells of a text's table rows of so many cells, by the first, which is code.
func rows(text string, cells int) map[string]string {
	out := map[string]string{}
	for line := range strings.Lines(text) {
		row := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		if first := strings.TrimSpace(row[0]); len(row) == cells && strings.HasPrefix(first, "`") {
			out[strings.Trim(first, "`")] = strings.TrimSpace(row[1])
		}
	}
	return out
}

// addFields adds the fields of a struct with their types, as docs/json.md names both.
func addFields(to map[string]string, prefix string, s reflect.Type) {
	for _, f := range reflect.VisibleFields(s) {
		if f.Anonymous {
			continue // its own fields are among them
		}
		path := prefix + f.Tag.Get("json")
		to[path] = typeName(f.Type)
		switch inner := f.Type; {
		case inner.Kind() == reflect.Struct:
			addFields(to, path+".", inner)
		case inner.Kind() == reflect.Slice && inner.Elem().Kind() == reflect.Struct:
			addFields(to, path+"[].", inner.Elem())
		}
	}
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Int, reflect.Uint32:
		return "integer"
	case reflect.Struct:
		return "object"
	case reflect.Slice:
		return "array of " + typeName(t.Elem()) + "s"
	case reflect.Map:
		return "object of " + typeName(t.Elem()) + "s"
	}
	return fmt.Sprintf("%v, of which this test does not know a name", t)
}

func compare(t *testing.T, what string, got, want map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if is, ok := got[name]; !ok {
			t.Errorf("%s: docs/json.md lacks %s", what, name)
		} else if is != want[name] {
			t.Errorf("%s: docs/json.md says that %s is %q, not %q", what, name, is, want[name])
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: there is no %s", what, name)
		}
	}
}
