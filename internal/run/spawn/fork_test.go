package spawn

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"uplane/test/lab"
)

const mountinfo = `31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu\040and rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/elogind rw,relatime - cgroup cgroup rw,release_agent=/x,name=elogind
35 31 0:32 /docker/1 /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
41 31 0:38
`

// TestControlGroups: a program is where its caller is, as far as it can be seen from here.
func TestControlGroups(t *testing.T) {
	const ours = "9:name=elogind:/\n0::/\n"
	for its, want := range map[string]string{
		ours:                                 "",
		"0::/user/1":                         "/sys/fs/cgroup/unified/user/1",
		"9:name=elogind:/7\n0::/\n":          "/sys/fs/cgroup/elogind/7",
		"4:cpu,cpuacct:/a\n5:pids:/b\n":      "/sys/fs/cgroup/cpu and/a",
		"4:memory:/docker/1/x\n0::/a:b\n":    "/sys/fs/cgroup/memory/x /sys/fs/cgroup/unified/a:b",
		"4:memory:/docker/1\n":               "/sys/fs/cgroup/memory",
		"4:memory:/docker/12\n":              "", // beside what is mounted
		"4:memory:/\n0::/../other\n":         "",
		"4:cpu,memory:/a\n\n0\n0:\nnonsense": "",
	} {
		if got := strings.Join(controlGroups(its, ours, parseHierarchies(mountinfo)), " "); got != want {
			t.Errorf("%q: %s, not %s", its, got, want)
		}
	}
	if (hierarchy{at: "/", device: "0:0"}).visible() {
		t.Error("what is mounted over is visible")
	}
}

// FuzzControlGroups: whatever stands there, nobody leaves what is mounted.
func FuzzControlGroups(f *testing.F) {
	f.Add("9:name=elogind:/7\n0::/../x\n", mountinfo)
	f.Fuzz(func(t *testing.T, its, mounts string) {
		all := parseHierarchies(mounts)
		for _, dir := range controlGroups(its, "", all) {
			within := func(h hierarchy) bool {
				below, err := filepath.Rel(h.at, dir)
				return err == nil && filepath.IsLocal(below)
			}
			if !slices.ContainsFunc(all, within) {
				t.Errorf("%q is outside of %v", dir, all)
			}
		}
	})
}

// TestChildSpec: what a caller has reaches the program, and no more.
func TestChildSpec(t *testing.T) {
	m := &Manager{Uplane: "/usr/bin/uplane"}
	c := Caller{UID: 1000, PID: 7, Groups: []uint32{1000, 44, 42}}
	like := execContext{
		gid: 1000, groups: []uint32{1000, 44}, nice: 5, bounding: 0x3fff, loginUID: 1001, noNewPrivileges: true, limits: []limit{{"CORE", 0, 1<<64 - 1}},
		fork: forkContext{groups: []string{"44", "42"}, umask: 0o27, oomScore: "3\n", control: "0::/\n"},
	}
	b, err := m.childSpec("steam", c, like, "/tmp/uplane-run-1/socket")
	if err != nil {
		t.Fatal(err)
	}
	b.Control = nil // this machine's
	want := childSpec{
		Lane: "steam", Command: []string{"/usr/bin/uplane", "inside", "/tmp/uplane-run-1/socket", "1001"}, UID: 1000, GID: 1000, Groups: []uint32{44},
		Umask: 0o27, Nice: 5, OOMScore: "3\n", Limits: map[string]unix.Rlimit{"CORE": {Cur: 0, Max: 1<<64 - 1}}, Bounding: 0x3fff, NoNewPrivileges: true, LoginUID: 1001,
	}
	if !reflect.DeepEqual(b, want) {
		t.Errorf("%+v\nnot\n%+v", b, want)
	}
	text, err := json.Marshal(b)
	var read childSpec
	if err != nil || json.Unmarshal(text, &read) != nil || !reflect.DeepEqual(read, want) {
		t.Errorf("%s: %+v, %v", text, read, err)
	}
	for _, name := range limitNames {
		if _, ok := limitNumbers[name]; !ok {
			t.Errorf("limit %s has no number", name)
		}
	}
}

// TestKeepers counts who runs uplane itself, not who says so.
func TestKeepers(t *testing.T) {
	shell, err := filepath.EvalSymlinks("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		c := exec.Command(shell, "-c", "printf "+KeeperName+" >/proc/$$/comm; echo; read x")
		stdin, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		stdout, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if _, err := stdout.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		defer func() {
			stdin.Close()
			_ = c.Wait()
		}()
	}
	me := uint32(os.Getuid())
	if n, err := (&Manager{Uplane: shell}).keepers(me); err != nil || n != 3 {
		t.Errorf("%d keepers, %v", n, err)
	}
	if n, err := (&Manager{Uplane: shell}).keepers(me + 1); err != nil || n != 0 {
		t.Errorf("%d keepers of nobody, %v", n, err)
	}
	if n, err := (&Manager{Uplane: "/usr/bin/uplane"}).keepers(me); err != nil || n != 0 {
		t.Errorf("%d shells are keepers, %v", n, err)
	}
}

// TestDropPrivileges: what becomes a user's can't be traced by the user before it executes something, and has nothing of root's.
func TestDropPrivileges(t *testing.T) {
	lab.RequireRoot(t)
	const child = "UPLANE_TEST_DROP"
	if os.Getenv(child) == "" {
		c := exec.Command("/proc/self/exe", "-test.run=^TestDropPrivileges$", "-test.v")
		c.Env = append(os.Environ(), child+"=1")
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	runtime.LockOSThread()
	b := childSpec{UID: 65534, GID: 65533, Groups: []uint32{7, 9}, Bounding: 1<<0 | 1<<7, NoNewPrivileges: true}
	if err := b.dropPrivileges(); err != nil {
		t.Fatal(err)
	}
	// With 1 a process of the user could trace it; see checkNotTraceable.
	if dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err != nil || dumpable == 1 {
		t.Errorf("dumpable is %d, %v", dumpable, err)
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(threads) < 2 {
		t.Errorf("threads %v, %v", threads, err)
	}
	for _, thread := range append(threads, "/proc/thread-self/status") {
		status, err := os.ReadFile(thread)
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]string{"Uid": "65534\t65534\t65534\t65534", "Gid": "65533\t65533\t65533\t65533", "Groups": "7 9", "CapEff": "0000000000000000", "CapPrm": "0000000000000000"} {
			if got := field(status, name); got != want {
				t.Errorf("%s: %s is %q, not %q", thread, name, got, want)
			}
		}
	}
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": "0000000000000081", "NoNewPrivs": "1"} {
		if got := field(status, name); got != want {
			t.Errorf("%s is %q, not %q", name, got, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/mem", &st); err != nil || st.Uid != 0 {
		t.Errorf("its memory is of user %d, %v", st.Uid, err)
	}
}

// TestChildren: what has ended does not stay, whether it ends before it is known or after.
func TestChildren(t *testing.T) {
	var all children
	for _, script := range []string{"exit 3", "sleep 0.2", "kill -9 $$"} {
		for range 5 {
			p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", script}, &os.ProcAttr{})
			if err != nil {
				t.Fatal(err)
			}
			if script == "exit 3" {
				time.Sleep(10 * time.Millisecond)
			}
			all.add(p.Pid)
			if err := p.Release(); err != nil {
				t.Fatal(err)
			}
		}
	}
	for late := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		all.mu.Lock()
		left := len(all.pids)
		all.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(late) {
			t.Fatalf("%d stay", left)
		}
	}
	var status unix.WaitStatus
	if pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("process %d is left: %v", pid, err)
	}
}
