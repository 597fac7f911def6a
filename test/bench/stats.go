package main

import (
	"fmt"
	"slices"
	"time"
)

// samples are durations of one thing, measured many times.
type samples []time.Duration

func (s samples) median() time.Duration { return s.quantile(50) }
func (s samples) p95() time.Duration    { return s.quantile(95) }

// quantile is the smallest sample that percent of all do not exceed; 0 without samples.
func (s samples) quantile(percent int) time.Duration {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	return sorted[max(0, (len(sorted)*percent+99)/100-1)]
}

// ratio is a to b.
func ratio(a, b time.Duration) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// ms is a duration in milliseconds, as the tables show it.
func ms(d time.Duration) string {
	v := d.Seconds() * 1000
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	case v >= 10:
		return fmt.Sprintf("%.1f ms", v)
	}
	return fmt.Sprintf("%.2f ms", v)
}

func times(x float64) string { return fmt.Sprintf("%.2f×", x) }
