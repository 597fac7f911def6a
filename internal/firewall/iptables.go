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

	"uplane/policy"
)

const (
	lockWait    = 5 // seconds that iptables waits for another one's lock (legacy)
	waitForLock = "--wait=5"
	commandWait = 15 * time.Second // for a whole command; it takes milliseconds
)

// xtables keeps chains in iptables' own tables. It finds iptables with go-iptables, reads with iptables-save and writes
// with iptables-restore: one fork each for all tables, where go-iptables takes one a chain to read (8 ms against 2) and
// cannot swap a chain in one step.
type xtables struct {
	command string // and its siblings NAME-save and NAME-restore
	nft     bool   // iptables-nft, not legacy
}

func openIPTables(name string) (*Firewall, error) {
	_, noTables := generation()
	if lacksNFTables(noTables) {
		// The other variant does not even tell its version there, and is what most hosts prefer.
		if _, err := exec.LookPath(policy.IPTablesLegacy); err == nil {
			name = policy.IPTablesLegacy
		}
	}
	cli, err := iptables.New(iptables.Path(name), iptables.Timeout(lockWait))
	if err != nil {
		return nil, err
	}
	major, minor, patch := cli.GetIptablesVersion()
	if major < 1 || major == 1 && (minor < 6 || minor == 6 && patch < 2) {
		return nil, fmt.Errorf("iptables %d.%d.%d is too old: 1.6.2 is the oldest whose restore can wait", major, minor, patch)
	}
	// go-iptables knows the variant but does not tell.
	version, err := run(context.Background(), name, "", "-V")
	if err != nil {
		return nil, err
	}
	x := xtables{command: name, nft: strings.Contains(version, "nf_tables")}
	// The variant's own name, so that an update-alternatives while we run does not make us write where nobody looks.
	variant := policy.IPTablesLegacy
	if x.nft {
		variant = "iptables-nft"
	}
	if _, err := exec.LookPath(variant); err == nil {
		x.command = variant
	}
	return &Firewall{driver: x, nfTables: noTables == nil}, nil
}

func (x xtables) Name() string {
	if x.nft {
		return "iptables (nf_tables)"
	}
	return "iptables (legacy)"
}

func (x xtables) Events() bool { return x.nft }

func (x xtables) read() (policy.State, error) {
	chains, err := x.chains()
	if err != nil {
		return nil, err
	}
	state := policy.State{}
	for _, c := range chains {
		state[c.Chain] = ""
		for i, r := range c.rules {
			state[policy.ChainRule{Table: c.Table, Chain: c.Name, N: i + 1, XTRule: r}] = ""
		}
	}
	return state, nil
}

// chains are ours in all tables.
func (x xtables) chains() ([]xtChain, error) {
	if !x.nft && len(legacyTables()) == 0 {
		return nil, nil // a look would make them
	}
	if x.nft {
		there, err := listScaffold()
		if err != nil || len(there) == 0 {
			return nil, err // nothing to fork for
		}
	}
	text, err := run(context.Background(), x.command+"-save", "")
	if err == nil {
		var chains []xtChain
		if chains, err = parseSave(text); err == nil {
			return chains, nil
		}
	}
	if x.nft {
		return nil, fmt.Errorf(`%w: another program's rule is of a kind that iptables cannot read; set firewall = "nftables", or move that rule to a table of its own`, err)
	}
	return nil, err
}

// write swaps every chain that the operations are about as a whole, in one transaction a table.
func (x xtables) write(ops []policy.Op, want policy.State) error {
	have, err := x.chains()
	if err != nil {
		return err
	}
	changes, err := changes(ops, have, wantedChains(want))
	if err != nil {
		return err
	}
	_, err = run(context.Background(), x.command+"-restore", restoreInput(changes), "--noflush", waitForLock)
	return err
}

// run returns what the command prints; its error carries what the command complains about.
func run(ctx context.Context, name, input string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, commandWait)
	defer cancel()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.WaitDelay = time.Second // a child of its own may keep the pipes open
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
