//go:build chaos

package system

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"
)

// TestChaos has lanes of all kinds under traffic of all kinds, and everything around them change at random, in
// bursts. At every moment nothing of a lane may leave where it must not; after each burst every lane has to be right.
//
// The seed is in the subtest's name. CHAOS_SEED repeats a run's events, though not the moments at which the kernel,
// NetworkManager and the daemon act; CHAOS_TIME is how long events go on.
func TestChaos(t *testing.T) {
	lasting, err := time.ParseDuration(setting("CHAOS_TIME", "3m"))
	if err != nil {
		t.Fatal(err)
	}
	seed, err := strconv.ParseUint(setting("CHAOS_SEED", fmt.Sprint(uint32(time.Now().UnixNano()))), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
		c := newChaos(t, lasting+10*time.Minute, rand.New(rand.NewPCG(seed, 0)), chaosLanes())
		before := c.bareTraces()
		c.lanesUp()
		c.rest()
		fresh := c.size()
		bursts := 0
		for end := time.Now().Add(lasting); time.Now().Before(end); bursts++ {
			c.burst()
			c.rest()
		}
		c.sameSize(fresh)
		for _, lane := range c.lanes {
			if lane.profile {
				c.run("profile", "remove", lane.name)
				continue
			}
			c.run("remove", lane.name)
		}
		c.requireNothingLeft(before)
		t.Logf("%d bursts, %d events: %v\n%s", bursts, c.events, c.counts, c.judge.summary())
	})
}

// setting is a variable of the environment.
func setting(name, otherwise string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return otherwise
}
