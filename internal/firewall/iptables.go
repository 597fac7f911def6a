package firewall

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

const (
	lockWait    = 5                // seconds that iptables waits for another one's lock (legacy)
	commandWait = 15 * time.Second // for a whole command; it takes milliseconds
)

// iptablesBackend finds iptables with go-iptables, reads with iptables-save and writes with iptables-restore: one fork
// each for all tables, where go-iptables takes one a chain to read (8 ms against 2) and cannot swap a chain in one step.
type iptablesBackend struct {
	save, restore string // commands
	nft           bool   // iptables-nft, not legacy
	scaffold
}

// openIPTables finds the command and its siblings NAME-save and NAME-restore.
func openIPTables(name string, created []string) (*Firewall, error) {
	cli, err := iptables.New(iptables.Path(name), iptables.Timeout(lockWait))
	if err != nil {
		return nil, err
	}
	major, minor, patch := cli.GetIptablesVersion()
	if major < 1 || major == 1 && (minor < 6 || minor == 6 && patch < 2) {
		return nil, fmt.Errorf(`iptables %d.%d.%d is too old, 1.6.2 is the oldest whose restore can wait: update it or set firewall = "nftables"`,
			major, minor, patch)
	}
	// go-iptables knows the mode but does not tell.
	version, err := run(name, "", "-V")
	if err != nil {
		return nil, err
	}
	return &Firewall{backend: &iptablesBackend{
		save:     name + "-save",
		restore:  name + "-restore",
		nft:      strings.Contains(version, "nf_tables"),
		scaffold: scaffold{created: created},
	}}, nil
}

func (t *iptablesBackend) Name() string {
	if t.nft {
		return "iptables (nf_tables)"
	}
	return "iptables (legacy)"
}

func (t *iptablesBackend) Events() bool { return t.nft }

func (t *iptablesBackend) Missing() ([]string, error) {
	if !t.nft {
		return nil, nil // legacy tables are modules, and stay
	}
	return t.missing()
}

func (t *iptablesBackend) read() ([]observed, error) {
	if t.nft {
		// Without the tables there is nothing to fork for.
		if there, err := listScaffold(); err != nil || len(there) == 0 {
			return nil, err
		}
	}
	out, err := run(t.save, "")
	if err != nil {
		return nil, err
	}
	return parseSave(out)
}

func (t *iptablesBackend) write(changes []change) error {
	apply := func() error {
		_, err := run(t.restore, restoreInput(changes), "--noflush", fmt.Sprintf("--wait=%d", lockWait))
		return err
	}
	if t.nft {
		return t.record(apply)
	}
	return apply()
}

func (t *iptablesBackend) sweep() error {
	if t.nft {
		return t.scaffold.sweep()
	}
	return nil
}

// run returns what the command prints; its error carries what the command complains about.
func run(name, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandWait)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	err := cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("no end after %s", commandWait)
	}
	if err == nil {
		return stdout.String(), nil
	}
	if said := strings.TrimSpace(stderr.String()); said != "" {
		err = errors.New(strings.ReplaceAll(said, "\n", "; "))
	}
	return "", fmt.Errorf("%s: %w", name, err)
}
