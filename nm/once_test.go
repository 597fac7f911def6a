package nm

import (
	"context"
	"syscall"
	"testing"
	"time"

	"uplane/policy"
)

func TestOnce(t *testing.T) {
	f := newFake(t)
	s, err := Once(t.Context(), f.address)
	if err != nil || !s.Known || !s.Running || len(s.Uplinks) != 1 || s.Uplinks[0].SSID != "Home" {
		t.Errorf("have %+v, %v", s, err)
	}
	f.mu.Lock()
	f.fail = 1
	f.mu.Unlock()
	if s, err = Once(t.Context(), f.address); err == nil || s.Known {
		t.Errorf("of a NetworkManager that fails: %+v", s)
	}
	// A profile that can't be read may be a limit or a lane; one that is gone is neither.
	f.tell(steam1, steamSettings(), driver+".Error.Failed")
	if s, err = Once(t.Context(), f.address); err == nil || s.Known {
		t.Errorf("without a profile: %+v", s)
	}
	f.tell(steam1, steamSettings(), "-")
	late, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	if s, err = Once(late, f.address); err == nil || s.Known {
		t.Errorf("without a profile's answer: %+v", s)
	}
	f.tell(steam1, steamSettings(), driver+".Error.UnknownMethod")
	if s, err = Once(t.Context(), f.address); err != nil || len(s.Profiles) != 0 || s.Uplinks[0].Phase != policy.PhaseActive {
		t.Errorf("with a profile that is gone: %+v, %v", s, err)
	}
	f.tell(home1, nil, driver+".Error.UnknownMethod")
	if s, err = Once(t.Context(), f.address); err != nil || s.Uplinks[0].Phase != policy.PhaseDown {
		t.Errorf("on a network whose profile is gone: %+v, %v", s, err)
	}
	f.tell(steam1, steamSettings(), "")
	if s, err = Once(t.Context(), f.address); err != nil || len(s.Profiles) != 1 {
		t.Errorf("with a profile: %+v, %v", s, err)
	}
	if err := f.conn.Close(); err != nil {
		t.Fatal(err)
	}
	for s.Known = true; s.Known; time.Sleep(time.Millisecond) { // the bus takes a moment to notice
		if s, err = Once(t.Context(), f.address); err != nil {
			s.Known = true // it went between the two calls
		}
	}
	if s.Running || s.Uplinks != nil {
		t.Errorf("without a NetworkManager: %+v", s)
	}
	if err := f.daemon.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err = Once(ctx, f.address); err == nil {
		t.Error("a bus that hangs answers")
	}
}
