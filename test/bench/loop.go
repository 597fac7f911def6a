package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"uplane/internal/daemon"
	"uplane/internal/kernel"
	"uplane/internal/state"
	"uplane/nm"
	"uplane/policy"
	"uplane/test/lab"
)

// loopHelper is the daemon's loop on the real kernel, in a bare world's host,
// with an uplink that this program makes up: no D-Bus and no NetworkManager take
// part in what is measured.
type loopHelper struct {
	loop    *daemon.Loop
	dir     string // of lane files
	lanes   int
	gateway atomic.Int32 // the last byte of its address
	passes  passLog
}

// bareCards are the host's.
const bareCards = `
ip link add wlp6s0 type veth peer name w0
ip link add enp7s0 type veth peer name e0
ip addr add 192.168.50.4/24 dev wlp6s0
ip addr add 192.168.10.4/24 dev enp7s0
for l in w0 e0 wlp6s0 enp7s0; do ip link set dev $l up; done
ip route add default via 192.168.10.1 dev enp7s0 proto dhcp
`

// loop is that helper. It understands "lanes N", "idle", "link" and "gateway",
// and answers with nanoseconds, lists read and operations of the first pass.
func loop([]string) error {
	if out, err := exec.Command("sh", "-ec", bareCards).CombinedOutput(); err != nil {
		return fmt.Errorf("make cards: %w: %s", err, out)
	}
	h := &loopHelper{passes: make(passLog, 1024), dir: "/etc/uplane/lanes.d"}
	h.gateway.Store(1)
	if err := os.MkdirAll(h.dir, 0o755); err != nil {
		return err
	}
	if err := h.open(); err != nil {
		return err
	}
	return answer(h.do)
}

func (h *loopHelper) open() error {
	ctx := context.Background()
	d, err := daemon.Open(ctx, daemon.Options{
		Paths: daemon.Paths{Config: filepath.Dir(h.dir), State: "/var/lib/uplane", Runtime: "/run/uplane"},
		Log:   slog.New(h.passes), Holder: state.Daemon, Trigger: daemon.NewTrigger(), NM: h.snapshot,
	})
	if err != nil {
		return err
	}
	h.loop = d.Loop
	go func() { _ = d.Follow(ctx) }()
	return nil
}

// snapshot is what NetworkManager would say.
func (h *loopHelper) snapshot() nm.Snapshot {
	return nm.Snapshot{Known: true, Running: true, Uplinks: []policy.Uplink{{
		Interface: lab.WiFi, Type: "wifi", Phase: policy.PhaseActive,
		Addresses: []netip.Prefix{netip.MustParsePrefix("192.168.50.4/24")},
		Routes: []policy.UplinkRoute{{
			Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.AddrFrom4([4]byte{192, 168, 50, byte(h.gateway.Load())}), Metric: 600,
		}},
		DNS: []netip.Addr{lab.WifiDNS},
	}}}
}

func (h *loopHelper) do(question string) (string, error) {
	what, number, _ := strings.Cut(question, " ")
	h.passes.drain()
	lists := kernel.Dumps()
	operations := false // whether the pass has some
	switch what {
	case "lanes":
		n, err := strconv.Atoi(number)
		if err != nil {
			return "", err
		}
		if err := h.files(n); err != nil {
			return "", err
		}
		operations = true
		if problems, err := h.loop.Reload(context.Background()); err != nil || len(problems) > 0 {
			return "", errors.Join(err, errors.Join(problems...))
		}
	case "idle":
		h.loop.Poke()
	case "link":
		// One that no lane has to do with. The event says "look again", whatever it was.
		if out, err := exec.Command("ip", "link", "set", "dev", "e0", "alias", fmt.Sprint(time.Now().UnixNano())).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: %s", err, out)
		}
	case "gateway":
		h.gateway.Store(3 - h.gateway.Load())
		operations = true
		h.loop.Poke()
	default:
		return "", fmt.Errorf("unknown: %s", what)
	}
	p, err := h.passes.next(operations)
	if err != nil {
		return "", err
	}
	lists = p.lists - lists
	h.passes.settle()
	return fmt.Sprintf("%d %d %d", p.took.Nanoseconds(), lists, p.operations), nil
}

// files makes it n lanes.
func (h *loopHelper) files(n int) error {
	for ; h.lanes < n; h.lanes++ {
		if err := os.WriteFile(laneFile(h.dir, h.lanes), []byte("uplink = \"wlp6s0\"\n"), 0o644); err != nil {
			return err
		}
	}
	for ; h.lanes > n; h.lanes-- {
		if err := os.Remove(laneFile(h.dir, h.lanes-1)); err != nil {
			return err
		}
	}
	return nil
}

// pass is one pass of the loop.
type pass struct {
	took       time.Duration
	operations int
	lists      int64 // that the process had read at its end
}

// passLog is a log that keeps what the loop says of its passes.
type passLog chan pass

func (passLog) Enabled(_ context.Context, level slog.Level) bool {
	return level == slog.LevelDebug || level >= slog.LevelWarn
}
func (l passLog) WithAttrs([]slog.Attr) slog.Handler { return l }
func (l passLog) WithGroup(string) slog.Handler      { return l }

func (l passLog) Handle(_ context.Context, r slog.Record) error {
	if r.Message != "pass" {
		fmt.Fprintln(os.Stderr, "loop:", r.Message)
		return nil
	}
	p := pass{lists: kernel.Dumps()}
	r.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case "took":
			p.took = a.Value.Duration()
		case "operations":
			p.operations = int(a.Value.Int64())
		}
		return true
	})
	l <- p
	return nil
}

func (l passLog) drain() {
	for len(l) > 0 {
		<-l
	}
}

// next is the next pass, or with operations the next that has some.
func (l passLog) next(operations bool) (pass, error) {
	timeout := time.After(2 * time.Minute)
	for {
		select {
		case p := <-l:
			if p.operations > 0 || !operations {
				return p, nil
			}
		case <-timeout:
			return pass{}, errors.New("no pass of this kind came")
		}
	}
}

// settle waits until no pass has come for a while.
func (l passLog) settle() {
	for {
		select {
		case <-l:
		case <-time.After(100 * time.Millisecond):
			return
		}
	}
}
