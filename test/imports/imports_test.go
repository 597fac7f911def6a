// Package imports states which package may import which, and checks it. "make lint" runs it.
package imports

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// allowed has a row for every package of this module, with those of its packages that it imports. Its tests may
// import the same, and helpers of tests.
var allowed = map[string][]string{
	// Decisions, from values to values. See pure below.
	"policy":      {"policy/walk"}, // its tests
	"policy/walk": {"policy"},
	"dispatcher":  {"policy"},

	// Edges: each speaks to one part of the system, in the types of policy. See edges below.
	"nm":                {"internal/busguard", "policy"},
	"internal/kernel":   {"internal/nsthread", "policy"},
	"internal/firewall": {"policy"},
	"internal/api":      {"internal/busguard", "policy"},
	"internal/units":    {"internal/busguard", "internal/run/overlay", "internal/state/safefile", "policy"},
	"internal/systemd":  {},

	// Files.
	"internal/config":         {"internal/state/safefile", "policy"},
	"internal/state":          {"internal/config", "internal/state/safefile", "policy"},
	"internal/state/safefile": {},
	"internal/desktop":        {"internal/state/safefile"},

	// The loop, and the same once.
	"internal/daemon":  {"internal/config", "internal/firewall", "internal/kernel", "internal/state", "nm", "policy"},
	"internal/oneshot": {"internal/api", "internal/daemon", "internal/kernel", "internal/state", "internal/units", "nm", "policy"},

	// Programs in lanes.
	"internal/run/overlay":  {"policy"},
	"internal/run/nsexec":   {"internal/nsthread", "internal/run/overlay", "policy"},
	"internal/run/spawn":    {"internal/busguard", "internal/nsthread", "internal/run/nsexec", "internal/run/overlay", "policy"},
	"internal/run/shim":     {"internal/nsthread", "internal/run/nsexec", "internal/run/spawn", "internal/systemd"},
	"internal/run/handover": {"internal/run/nsexec", "policy"},
	"internal/run/flatpak":  {"internal/run/nsexec"},

	// Helpers.
	"internal/busguard": {},
	"internal/nsthread": {},
	"internal/version":  {},
	"internal/manual":   {"internal/config"},

	// Commands.
	"cmd/uplane": {"dispatcher", "internal/api", "internal/config", "internal/desktop", "internal/manual", "internal/oneshot",
		"internal/run/flatpak", "internal/run/handover", "internal/run/nsexec", "internal/run/shim", "internal/run/spawn",
		"internal/units", "internal/version", "nm", "policy"},
	"cmd/uplaned": {"internal/api", "internal/config", "internal/daemon", "internal/manual", "internal/run/spawn",
		"internal/state", "internal/systemd", "internal/units", "internal/version", "nm", "policy"},

	// Tests and tools.
	"test/lab":     {"internal/nsthread"},
	"test/bustest": {},
	"test/demo":    {"test/lab"},
	"test/bench":   {"internal/daemon", "internal/kernel", "internal/state", "nm", "policy", "test/lab"},
	"test/wifi":    {"test/lab"},
	"test/system":  {"dispatcher", "internal/api", "internal/units"},
	"test/imports": {},
}

// edges must not reach each other, by whatever packages are between them.
var edges = []string{"nm", "internal/kernel", "internal/firewall", "internal/api", "internal/units", "internal/systemd"}

// pure are packages whose results depend on nothing but their arguments, so that every branch of them is tested without
// root. Of the standard library they may import pureStandard, and what is listed here.
var pure = map[string][]string{
	"policy":      {"reflect"}, // it compares what is remembered
	"policy/walk": {},
	"dispatcher":  {"context"}, // it bounds how long its handlers take
}

var pureStandard = []string{
	"bytes", "cmp", "crypto/sha256", "encoding/base32", "encoding/binary", "encoding/hex", "errors", "fmt", "hash/fnv", "iter",
	"maps", "math", "math/bits", "net/netip", "reflect", "slices", "sort", "strconv", "strings", "time", "unicode", "unicode/utf8",
}

// clock are the functions of package time that a pure package must not use: it is given the time as a value.
var clock = []string{"After", "AfterFunc", "NewTicker", "NewTimer", "Now", "Since", "Sleep", "Tick", "Until"}

// helpers may be imported by all tests.
var helpers = []string{"test/bustest", "test/lab"}

const module = "uplane/"

// pkg is a package: what its files import, those of all build tags, and what its tests import.
type pkg struct {
	files          []string
	imports, tests []string
}

// load reads all packages of the module, by their paths in it. It reads files itself rather than asking "go list", so
// that "go test" runs this again when one of them has changed.
func load(t *testing.T) map[string]pkg {
	t.Helper()
	const root = "../.."
	all := map[string]pkg{}
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && file != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return filepath.SkipDir
		case d.IsDir() || filepath.Ext(file) != ".go":
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		p := all[dir]
		for _, spec := range f.Imports {
			path, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if strings.HasSuffix(file, "_test.go") {
				p.tests = append(p.tests, path)
			} else {
				p.imports = append(p.imports, path)
			}
		}
		if !strings.HasSuffix(file, "_test.go") {
			p.files = append(p.files, file)
		}
		all[dir] = p
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// own returns those of imports that are of this module, each once.
func own(imports []string) (paths []string) {
	for _, i := range imports {
		if path, ok := strings.CutPrefix(i, module); ok && !slices.Contains(paths, path) {
			paths = append(paths, path)
		}
	}
	return paths
}

func TestImports(t *testing.T) {
	all := load(t)
	for _, path := range slices.Sorted(maps.Keys(all)) {
		p := all[path]
		row, ok := allowed[path]
		if !ok {
			t.Errorf("%s is not in the table: add a row that says what it may import", path)
			continue
		}
		for _, i := range own(p.imports) {
			if !slices.Contains(row, i) {
				t.Errorf("%s must not import %s", path, i)
			}
		}
		for _, i := range own(p.tests) {
			if i != path && !slices.Contains(row, i) && !slices.Contains(helpers, i) {
				t.Errorf("the tests of %s must not import %s", path, i)
			}
		}
		for _, i := range row {
			if !slices.Contains(p.imports, module+i) && !slices.Contains(p.tests, module+i) {
				t.Errorf("%s does not import %s: remove it from the table", path, i)
			}
		}
		if strings.HasPrefix(path, "test/") {
			continue
		}
		for _, i := range p.imports {
			if i == "testing" || strings.HasPrefix(i, "testing/") || strings.HasPrefix(i, module+"test/") {
				t.Errorf("%s is shipped and must not import %s", path, i)
			}
		}
	}
	for path := range allowed {
		if _, ok := all[path]; !ok {
			t.Errorf("there is no package %s: remove it from the table", path)
		}
	}
}

func TestEdges(t *testing.T) {
	all := load(t)
	for _, edge := range edges {
		if _, ok := all[edge]; !ok {
			t.Errorf("there is no package %s: remove it from edges", edge)
		}
		seen := map[string]bool{edge: true}
		for queue := []string{edge}; len(queue) > 0; queue = queue[1:] {
			for _, i := range own(all[queue[0]].imports) {
				if seen[i] {
					continue
				}
				seen[i] = true
				queue = append(queue, i)
				if slices.Contains(edges, i) {
					t.Errorf("%s reaches %s by %s: edges must not know each other", edge, i, queue[0])
				}
			}
		}
	}
}

func TestPure(t *testing.T) {
	all := load(t)
	for path, more := range pure {
		p, ok := all[path]
		if !ok {
			t.Errorf("there is no package %s: remove it from pure", path)
		}
		for _, i := range p.imports {
			_, ours := pure[strings.TrimPrefix(i, module)]
			if !ours && !slices.Contains(pureStandard, i) && !slices.Contains(more, i) {
				t.Errorf("%s is pure and must not import %s", path, i)
			}
		}
		for _, file := range p.files {
			positions := token.NewFileSet()
			f, err := parser.ParseFile(positions, file, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(f, func(n ast.Node) bool {
				use, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := use.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clock, use.Sel.Name) {
					t.Errorf("%s: %s is pure and must not use time.%s", positions.Position(use.Pos()), path, use.Sel.Name)
				}
				return true
			})
		}
	}
}
