package lab

import (
	"os"
	"testing"
)

func TestZZScratch(t *testing.T) {
	ctx, w := Start(t, Plain, Options{NMLogLevel: os.Getenv("NMLOG")})
	if err := w.Connect(ctx); err != nil {
		t.Fatal(err)
	}
	script, _ := os.ReadFile(os.Getenv("SCRATCH"))
	out, err := w.Host.RunContext(ctx, "bash", "-c", string(script))
	t.Log(out, err)
	os.WriteFile("/tmp/prof/nm.log", []byte(w.Host.Log("NetworkManager")), 0o644)
}
