package policy

import (
	"flag"
	"os"
	"testing"
)

// TestMain gives random walks one seed, so that a change is judged by the same worlds each time. Other
// worlds: go test ./policy -rapid.seed=N, or 0 for new ones.
func TestMain(m *testing.M) {
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "rapid.seed" })
	if !given {
		if err := flag.Set("rapid.seed", "20261127"); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
