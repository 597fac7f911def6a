package lab

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// patience bounds a wait whose context has no deadline: a test should fail with the reason, not
// with a time-out of all tests.
const patience = 30 * time.Second

// poll tries until try returns nil. The error has the last reason.
func poll(ctx context.Context, pause time.Duration, try func() error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(pause):
		}
	}
}

// tail is the last lines of a log.
func tail(text string, lines int) string {
	all := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
