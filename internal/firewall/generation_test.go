package firewall

import (
	"errors"
	"strings"
	"testing"
)

// TestSteady: what was read while somebody wrote is read again, until he pauses or we give up.
func TestSteady(t *testing.T) {
	t.Parallel()
	isolate(t)
	reads := 0
	at, err := steady(func() error {
		if reads++; reads < 3 {
			sh(t, "nft add table ip x; nft delete table ip x")
			return errors.New("half of it")
		}
		return nil
	})
	now, _ := generation()
	if err != nil || reads != 3 || at != now {
		t.Errorf("%d reads at %d, now %d: %v", reads, at, now, err)
	}
	wrong := errors.New("wrong")
	if _, err := steady(func() error { return wrong }); !errors.Is(err, wrong) {
		t.Errorf("err = %v", err)
	}
	_, err = steady(func() error {
		sh(t, "nft add table ip x")
		sh(t, "nft delete table ip x")
		return nil
	})
	if err == nil || !strings.Contains(err.Error(), "all the time") {
		t.Errorf("err = %v", err)
	}
}

// TestCommitErrors: a batch that the kernel refuses as a whole is an error, too, and at once.
func TestCommitErrors(t *testing.T) {
	t.Parallel()
	isolate(t)
	var b batch
	if err := b.commit(0); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
	if err := addTable(&b); err != nil {
		t.Fatal(err)
	}
	now, err := generation()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.commit(now + 1); err == nil || !strings.Contains(err.Error(), "restart") {
		t.Errorf("of another generation: %v", err)
	}
	if err := b.commit(now); err != nil {
		t.Error(err)
	}
	if err := b.commit(0); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("a second time: %v", err)
	}
}
