package dispatcher

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHandle(t *testing.T) {
	broken := errors.New("broken")
	for _, tt := range []struct {
		name          string
		action        Action
		daemon, apply error
		calls         string
		err           error
	}{
		{"a daemon", Up, nil, nil, "start", nil},
		{"a daemon, NetworkManager waits", PreUp, nil, nil, "settle wlp6s0 " + uuid, nil},
		{"a VPN's profile is no device's", VPNPreUp, nil, nil, "start", nil},
		{"no daemon", DHCP4, ErrAbsent, nil, "start, apply", nil},
		{"no daemon, NetworkManager waits", PreUp, ErrAbsent, nil, "settle wlp6s0 " + uuid + ", apply", nil},
		{"neither", Down, ErrAbsent, broken, "start, apply", broken},
		{"a daemon that fails", Up, broken, nil, "start", broken}, // it may be at work: nobody else writes
	} {
		var calls []string
		h := Handlers{
			Start: func(context.Context) error { calls = append(calls, "start"); return tt.daemon },
			Settle: func(_ context.Context, iface, uuid string) error {
				calls = append(calls, "settle "+iface+" "+uuid)
				return tt.daemon
			},
			Apply: func(context.Context) error { calls = append(calls, "apply"); return tt.apply },
		}
		err := h.Handle(t.Context(), Event{Action: tt.action, Interface: "wlp6s0", UUID: uuid})
		if !errors.Is(err, tt.err) || !slices.Equal(calls, strings.Split(tt.calls, ", ")) {
			t.Errorf("%s: have %q, %v; want %s, %v", tt.name, calls, err, tt.calls, tt.err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), fmt.Sprintf("%s of wlp6s0: ", tt.action)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestHandleLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		h := Handlers{Settle: func(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }}
		err := h.Handle(t.Context(), Event{Action: PreUp, Interface: "wlp6s0"})
		if took := time.Since(start); took != Limit || err == nil || !strings.Contains(err.Error(), "not done after 5s") {
			t.Errorf("after %v: %v", took, err)
		}
	})
}
