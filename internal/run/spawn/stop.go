package spawn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// keeperTime is how long a keeper has to tell how its program ended, before it is killed, too.
const keeperTime = stopTimeout / 2

// Stop ends what runs in a lane, of one user or of everybody: it asks, and after some
// seconds it no longer does. It returns how many programs there were.
func (m *Manager) Stop(ctx context.Context, lane string, uid uint32) (int, error) {
	its, err := namespaceOf(lane)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil // it is down
	}
	if err != nil {
		return 0, err
	}
	asked := map[uint32]bool{}
	programs, units := 0, false
	deadline := time.Now().Add(stopTimeout)
	for {
		left, err := m.scan(map[namespaceID]string{its: lane}, uid)
		if err != nil {
			return programs, err
		}
		if len(left) == 0 {
			return programs, m.stopUnits(ctx, lane, uid)
		}
		late := time.Now().After(deadline)
		if late && !units {
			units = true
			_ = m.stopUnits(ctx, lane, uid) // a systemd that fails spares nobody: what follows does without
		}
		if late && time.Since(deadline) > stopTimeout {
			return programs, fmt.Errorf("%d programs in lane %s can't be ended, process %d among them", len(left), lane, left[0].PID)
		}
		for _, p := range left {
			switch {
			case late && p.keeper && time.Since(deadline) < keeperTime:
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

// stopUnits has systemd end what is left of programs: a sandbox with a network of its own is no longer in the lane's, and
// some make others faster than they are looked for.
func (m *Manager) stopUnits(ctx context.Context, lane string, uid uint32) error {
	if !booted() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	s, err := m.systemd(ctx)
	if err != nil {
		return err
	}
	defer s.conn.Close()
	units, err := s.units(ctx, unitPrefix+"*"+unitSuffix)
	if errors.Is(err, ErrNoSystemd) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, unit := range units {
		if owner, its := unitOf(unit); its == lane && (uid == Everybody || owner == strconv.Itoa(int(uid))) {
			if err := s.call(ctx, "StopUnit", unit, "replace").Err; err != nil && !isError(err, systemdName+".NoSuchUnit") {
				return fmt.Errorf("have systemd end %s: %w", unit, err)
			}
		}
	}
	return nil
}

// signal sends signals to the program, and to no other that has its number by now.
func (p Program) signal(signals ...unix.Signal) {
	pidfd, err := unix.PidfdOpen(int(p.PID), 0)
	if err != nil {
		return // it has gone
	}
	defer unix.Close(pidfd)
	if !p.isSame() {
		return
	}
	for _, s := range signals {
		_ = unix.PidfdSendSignal(pidfd, s, nil, 0)
	}
}

// isSame reports whether the process of that number is still the program.
func (p Program) isSame() bool {
	its, err := readNamespaceID(fmt.Sprintf("/proc/%d/ns/net", p.PID))
	if err != nil || its != p.netns {
		return false
	}
	uid, _, err := owner(p.PID)
	return err == nil && uid == p.UID
}
