package spawn

import (
	"context"
	"sync"
)

// maxStarting is how many starts of a user systemd has to do with at a time: it does one after the other, for
// everybody. More wait here, where they hold up nobody else.
const maxStarting = 4

// queue lets every user have so many starts under way.
type queue struct {
	mu    sync.Mutex
	users map[uint32]chan struct{}
}

// enter waits until it is the user's turn, and returns how to end it.
func (q *queue) enter(ctx context.Context, uid uint32) (leave func(), err error) {
	q.mu.Lock()
	turns, ok := q.users[uid]
	if !ok {
		if q.users == nil {
			q.users = map[uint32]chan struct{}{}
		}
		turns = make(chan struct{}, maxStarting)
		q.users[uid] = turns
	}
	q.mu.Unlock()
	select {
	case turns <- struct{}{}:
		return func() { <-turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
