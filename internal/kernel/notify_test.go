package kernel

import (
	"maps"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"uplane/policy"
)

// inotifyEvent is an event as the kernel writes it.
func inotifyEvent(wd int32, mask uint32, name string) []byte {
	b := appendNumber(nil, 0, uint32(wd))[4:]
	b = append(b, appendNumber(nil, 0, mask)[4:]...)
	b = append(b, 0, 0, 0, 0)
	padded := (len(name) + 16) &^ 15
	if name == "" {
		padded = 0
	}
	b = append(b, appendNumber(nil, 0, uint32(padded))[4:]...)
	return append(append(b, name...), make([]byte, padded-len(name))...)
}

func watched() *notify {
	n := &notify{paths: map[int32]string{1: policy.NetnsDir, 2: policy.EtcNetns, 3: policy.EtcNetns + "/steam", 4: policy.HostSwitch}, wds: map[string]int32{}}
	for wd, path := range n.paths {
		n.wds[path] = wd
	}
	return n
}

func TestNotifyNote(t *testing.T) {
	for name, c := range map[string]struct {
		event        []byte
		netns, files []string
		all          bool
	}{
		"namespace":             {inotifyEvent(1, unix.IN_CREATE, "play"), []string{"play"}, nil, false},
		"lane's folder":         {inotifyEvent(2, unix.IN_CREATE|unix.IN_ISDIR, "play"), nil, []string{policy.SwitchPath("play"), policy.ResolvConfPath("play")}, false},
		"lane's file":           {inotifyEvent(3, unix.IN_CLOSE_WRITE, "resolv.conf"), nil, []string{policy.ResolvConfPath("steam")}, false},
		"lane's folder is gone": {inotifyEvent(3, unix.IN_IGNORED, ""), nil, nil, false},
		"host's switch":         {inotifyEvent(4, unix.IN_MOVE_SELF, ""), nil, []string{policy.HostSwitch}, false},
		"overflow":              {inotifyEvent(-1, unix.IN_Q_OVERFLOW, ""), nil, nil, true},
		"namespaces gone":       {inotifyEvent(1, unix.IN_IGNORED, ""), nil, nil, true},
		"cut off":               {inotifyEvent(1, unix.IN_CREATE, "play")[:20], nil, nil, false},
	} {
		n, p := watched(), parts{}
		n.note(c.event, &p)
		if got := slices.Sorted(maps.Keys(p.netns.names)); !slices.Equal(got, c.netns) {
			t.Errorf("%s: namespaces %v", name, got)
		}
		slices.Sort(c.files)
		if got := slices.Sorted(maps.Keys(p.files.names)); !slices.Equal(got, c.files) {
			t.Errorf("%s: files %v", name, got)
		}
		if p.netns.all != c.all || p.files.all != c.all {
			t.Errorf("%s: all is %v", name, p.files.all)
		}
	}
	n := watched()
	n.note(inotifyEvent(2, unix.IN_IGNORED, ""), &parts{})
	if n.watches(policy.EtcNetns) || !n.watches(policy.NetnsDir) {
		t.Error("a watch that the kernel has dropped is kept")
	}
}

func FuzzNotifyNote(f *testing.F) {
	f.Add(append(inotifyEvent(1, unix.IN_CREATE, "play"), inotifyEvent(3, unix.IN_CLOSE_WRITE, "resolv.conf")...))
	f.Fuzz(func(t *testing.T, b []byte) { watched().note(b, &parts{}) })
}
