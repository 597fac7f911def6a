package lab

import (
	"context"
	"testing"
)

// BenchmarkWorld is the price of a world from nothing to Close; of the plain one with both profiles
// connected.
func BenchmarkWorld(b *testing.B) {
	RequireRoot(b)
	ctx := context.Background()
	for name, kind := range map[string]Kind{"Bare": Bare, "Plain": Plain} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				w, err := New(ctx, kind, Options{})
				if err != nil {
					b.Fatal(err)
				}
				if kind != Bare {
					if err := w.Connect(ctx); err != nil {
						b.Fatal(err)
					}
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
