package state

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Who may hold the lock.
const (
	Daemon  = "uplaned"
	OneShot = "uplane apply"
)

// Lock makes its holder the only process that changes lanes and writes the
// files of this package. It goes with the process, however that ends.
type Lock struct{ file *os.File }

// ErrDaemon says that the daemon holds the lock, and so will for long.
var ErrDaemon = errors.New("another uplaned is running")

const (
	lockFile = "lock"
	lockPoll = 20 * time.Millisecond
)

// Acquire takes the lock in dir, the runtime folder. It waits for a one-shot
// run, which ends soon, until ctx is done, and not at all for a daemon. One that
// was killed may leave the lock for a moment to a program it was about to start.
func Acquire(ctx context.Context, dir, who string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			l := &Lock{f}
			return l, l.sign(who)
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		who, pid := holder(f)
		if who == Daemon && unix.Kill(pid, 0) == nil {
			f.Close()
			return nil, ErrDaemon
		}
		select {
		case <-ctx.Done():
			err := fmt.Errorf("lock %s: held by %q: %w", path, who, ctx.Err())
			f.Close()
			return nil, err
		case <-time.After(lockPoll):
		}
	}
}

// sign writes who has the lock into it, for those who want it too.
func (l *Lock) sign(who string) error {
	text := fmt.Sprintf("%s %d\n", who, os.Getpid())
	if _, err := l.file.WriteAt([]byte(text), 0); err != nil {
		l.Release()
		return fmt.Errorf("lock: %w", err)
	}
	return l.file.Truncate(int64(len(text)))
}

// holder is what the last holder signed with; the process is never 0 or less,
// which would mean others.
func holder(f *os.File) (who string, pid int) {
	buf := make([]byte, 64)
	n, _ := f.ReadAt(buf, 0)
	line, _, _ := strings.Cut(string(buf[:n]), "\n")
	i := max(strings.LastIndexByte(line, ' '), 0)
	if pid, _ = strconv.Atoi(strings.TrimSpace(line[i:])); pid <= 0 {
		pid = math.MaxInt32 // nobody's
	}
	return line[:i], pid
}

// Release lets others have the lock. The file stays: who waits has it open.
func (l *Lock) Release() { l.file.Close() }
