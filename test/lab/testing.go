package lab

import (
	"context"
	"flag"
	"os"
	"strings"
	"testing"
	"time"
)

// RequireRoot skips a test that needs root, as a world does, when the user is not. In CI it fails: see [Lacks].
func RequireRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		Lacks(t, "needs root")
	}
}

// RequireProgram skips a test that needs a program which is not installed. In CI it fails: see [Lacks].
func RequireProgram(t testing.TB, name string) {
	t.Helper()
	if _, err := lookPath(name); err != nil {
		Lacks(t, "needs "+name+", which \"make setup\" installs")
	}
}

// Lacks skips a test that needs something. In CI, where the variable CI is "true", it fails instead: there a skipped test
// would go unseen.
func Lacks(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// Start is [New] for a test: it fails the test on an error, closes the world at its end, and shows
// NetworkManager's log when the test has failed. The context ends a minute after the start.
func Start(t testing.TB, kind Kind, options Options) (context.Context, *World) {
	t.Helper()
	RequireRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	w, err := New(ctx, kind, options)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, w)
	return ctx, w
}

// StartMachine is [Boot] for a test, as [Start] is New. The minute starts when there is an image.
func StartMachine(t testing.TB, release Debian, kind Kind, options Options) (context.Context, *Machine) {
	t.Helper()
	RequireRoot(t)
	if _, err := release.image(context.Background(), options.Packages); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	m, err := Boot(ctx, release, kind, options)
	if err != nil {
		t.Fatal(err)
	}
	closeAfter(t, m.World)
	return ctx, m
}

func closeAfter(t testing.TB, w *World) {
	t.Cleanup(func() {
		if t.Failed() && w.nm != nil {
			t.Logf("NetworkManager's log ends so:\n%s", w.NMLog())
		}
		if t.Failed() && w.booted {
			t.Logf("the daemon's log ends so:\n%s", tail(w.service("uplaned").log(), 60))
		}
		if err := w.Close(); err != nil {
			t.Errorf("close the world: %v", err)
		}
	})
}

// insideVar tells a test process that it runs in a world's host.
const insideVar = "UPLANE_LAB_INSIDE"

// Inside runs the calling test again, by a process of its own in the host of a bare world, and
// returns false; in that process it returns true. So a test that makes namespaces, rules and files
// in /run does it where no other sees it:
//
//	func TestLane(t *testing.T) {
//		t.Parallel()
//		if !lab.Inside(t) {
//			return
//		}
//		// here /run, /etc and the network are the test's own
//	}
//
// It is for tests, not for subtests. With "go test -args -test.gocoverdir=DIR" coverage counts too.
func Inside(t *testing.T) bool {
	t.Helper()
	if os.Getenv(insideVar) != "" {
		return true
	}
	_, w := Start(t, Bare, Options{})
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.count=1"}
	if cover := flag.Lookup("test.gocoverdir"); cover != nil && cover.Value.String() != "" {
		args = append(args, "-test.gocoverdir="+cover.Value.String())
	}
	cmd := w.Host.Command(exe, args...)
	cmd.Dir = dir
	cmd.Env = append(environ(), insideVar+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("inside the world: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP: "+t.Name()) {
		t.Skipf("inside the world:\n%s", out)
	}
	t.Logf("inside the world:\n%s", out)
	return false
}
