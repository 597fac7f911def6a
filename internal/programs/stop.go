package programs

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Stop ends what runs in a lane, of one user or of everybody: it asks, and after some
// seconds it no longer does. It returns how many programs there were.
func (m *Manager) Stop(ctx context.Context, lane string, uid uint32) (int, error) {
	asked := map[uint32]bool{}
	programs := 0
	deadline := time.Now().Add(stopTimeout)
	for {
		left, err := m.scan([]string{lane}, uid)
		if err != nil || len(left) == 0 {
			return programs, err
		}
		late := time.Now().After(deadline)
		// A keeper ends with its program, and tells how that ended; so it is not killed before.
		keepers := !slices.ContainsFunc(left, func(p Program) bool { return !p.keeper })
		if late && time.Since(deadline) > stopTimeout {
			return programs, fmt.Errorf("%d programs in lane %s can't be ended, process %d among them", len(left), lane, left[0].PID)
		}
		for _, p := range left {
			switch {
			case late && p.keeper && !keepers:
			case late:
				p.signal(unix.SIGKILL)
			case !asked[p.PID]:
				p.signal(unix.SIGTERM, unix.SIGCONT)
				asked[p.PID] = true
				if !p.keeper {
					programs++
				}
			}
		}
		select {
		case <-ctx.Done():
			return programs, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// signal sends signals to the program, and to no other that has its number by now.
func (p Program) signal(signals ...unix.Signal) {
	pidfd, err := unix.PidfdOpen(int(p.PID), 0)
	if err != nil {
		return // it has gone
	}
	defer unix.Close(pidfd)
	if !p.still() {
		return
	}
	for _, s := range signals {
		_ = unix.PidfdSendSignal(pidfd, s, nil, 0)
	}
}

// still tells whether the process of that number still is the program.
func (p Program) still() bool {
	var lane, its unix.Stat_t
	if unix.Stat(namespacePath(p.Lane), &lane) != nil || unix.Stat(fmt.Sprintf("/proc/%d/ns/net", p.PID), &its) != nil {
		return false
	}
	uid, _, err := owner(p.PID)
	return err == nil && lane.Ino == its.Ino && uid == p.UID
}
