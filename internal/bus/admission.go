package bus

import "sync"

// How many calls are served at a time. More are refused at once, for to let
// them wait would be to remember them.
const (
	maxStrangers = 256 // until the bus has told whose they are, which takes no time
	maxPerSender = 16
	maxPerUser   = 32 // also while a person is asked for a password
	maxRoot      = 256
)

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
