package lab

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// namespacesOf are the namespaces of a world, as links under /proc name them.
func namespacesOf(t *testing.T, w *World) []string {
	t.Helper()
	files := append([]*os.File{w.Host.ns}, w.holder.spaces...)
	if w.booted {
		files = append(files, w.Host.place.spaces...)
	}
	if w.kind != Bare {
		for _, n := range []*Node{w.Wire.Node, w.Wifi.Node, w.Wifi2.Node, w.Inet.Node} {
			files = append(files, n.ns)
		}
	}
	var names []string
	for _, file := range files {
		name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	return names
}

// users are the processes, and the descriptors of this one, that hold one of the namespaces.
func users(names []string) []string {
	var found []string
	for _, pattern := range []string{"/proc/[0-9]*/ns/*", "/proc/[0-9]*/task/*/ns/*", "/proc/self/fd/*"} {
		links, _ := filepath.Glob(pattern)
		for _, link := range links {
			target, _ := os.Readlink(link)
			for _, name := range names {
				if target == name {
					found = append(found, link)
				}
			}
		}
	}
	return found
}

// waitUnused waits until nothing holds the namespaces. After a kill of the caller the PID namespace
// takes as long as the machine's init takes to reap the dead: seconds with some.
func waitUnused(t *testing.T, names []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	err := poll(ctx, 10*time.Millisecond, func() error {
		if left := users(names); len(left) > 0 {
			return fmt.Errorf("still there: %q", left)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func mounts(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestCloseLeavesNothing(t *testing.T) {
	t.Parallel()
	before := mounts(t)
	ctx, w := Start(t, Plain, Options{})
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	// A program that nobody waits for, one that left its parent, and a namespace with a mount.
	if _, err := w.Host.Start("sleep", "1000"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Host.Run("sh", "-c", "ip netns add steam; setsid sleep 1000 >/dev/null 2>&1 &"); err != nil {
		t.Fatal(err)
	}
	names := namespacesOf(t, w)
	if len(users(names)) == 0 {
		t.Fatal("the check finds no user of the namespaces while they are in use")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	waitUnused(t, names)
	if after := mounts(t); after != before {
		t.Errorf("mounts changed from\n%s\nto\n%s", before, after)
	}
	if err := w.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if _, err := w.Host.Run("true"); err == nil {
		t.Error("a command runs in a closed world")
	}
}

func TestKilledCaller(t *testing.T) {
	t.Parallel()
	names := killedCaller(t, func() []string {
		ctx, w := Start(t, Plain, Options{})
		if err := w.Connect(ctx); err != nil {
			t.Fatal(err)
		}
		return namespacesOf(t, w)
	})
	start := time.Now()
	waitUnused(t, names)
	t.Logf("all gone after %v", time.Since(start))
}

// killedCaller has another process, with this test, make a world, and kills that process. It returns
// the names that make gave there, of which the first are namespaces.
func killedCaller(t *testing.T, make func() []string) []string {
	t.Helper()
	const marker = "names: "
	if os.Getenv("LAB_TEST_VICTIM") != "" {
		fmt.Println(marker + strings.Join(make(), " "))
		select {} // until it is killed
	}
	RequireRoot(t)
	victim := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), "LAB_TEST_VICTIM=1")
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	var names []string
	for lines := bufio.NewScanner(out); len(names) == 0 && lines.Scan(); {
		if list, ok := strings.CutPrefix(lines.Text(), marker); ok {
			names = strings.Fields(list)
		} else {
			t.Log(lines.Text())
		}
	}
	inUse := users(names)
	if err := victim.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = victim.Wait()
	if len(names) < 7 || len(inUse) == 0 {
		t.Fatalf("no world was made: %q, used by %q", names, inUse)
	}
	return names
}
