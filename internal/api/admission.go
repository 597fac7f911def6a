package api

import (
	"sync"
	"time"

	"uplane/internal/busguard"
)

// How many calls are served at a time. More are refused at once, for to let
// them wait would be to remember them. A flood is not even refused: an answer costs
// as much as what it answers, so root's calls would wait behind them (measured:
// 4 s instead of less than half a one), and the bus stops a caller with too many calls unanswered.
const (
	maxUnidentified = 256 // until the bus has told whose they are, which takes no time
	maxPerSender    = 16
	maxPerUser      = 32 // also while a person is asked for a password
	maxRoot         = 256
	maxRefusals     = 100 // a second
)

// refusals answers refused calls, up to maxRefusals a second.
type refusals struct {
	mu    sync.Mutex
	since time.Time
	count int
}

func (r *refusals) answer(c *busguard.Call, err error) {
	r.mu.Lock()
	if now := time.Now(); now.Sub(r.since) > time.Second {
		r.since, r.count = now, 0
	}
	r.count++
	enough := r.count > maxRefusals
	r.mu.Unlock()
	if !enough {
		c.Fail(busError(err))
	}
}

// quota counts what everybody has in use.
type quota[K comparable] struct {
	mu   sync.Mutex
	used map[K]int
}

// enter takes one more of at most so many.
func (q *quota[K]) enter(who K, most int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[who] >= most {
		return false
	}
	if q.used == nil {
		q.used = map[K]int{}
	}
	q.used[who]++
	return true
}

func (q *quota[K]) leave(who K) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.used[who]--; q.used[who] == 0 {
		delete(q.used, who)
	}
}
