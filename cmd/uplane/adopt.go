package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"uplane/internal/api"
	"uplane/internal/units"
)

func adoptCommand() *cobra.Command {
	var undo bool
	c := &cobra.Command{
		Use:   "adopt UNIT LANE",
		Short: "Have a systemd service run in a lane",
		Long: `Have a systemd service run in a lane, from its next start on. It starts only
while the lane is up, ends when it no longer is, and when it is enabled starts
with it. This writes /etc/systemd/system/UNIT.d/50-uplane.conf; --undo removes it.`,
		Example: "  uplane adopt game.service steam\n  uplane adopt --undo game.service",
		Args: func(_ *cobra.Command, args []string) error {
			if undo && len(args) != 1 {
				return usageError{errors.New("adopt: expected a unit: uplane adopt --undo UNIT")}
			}
			if !undo && len(args) != 2 {
				return usageError{errors.New("adopt: expected a unit and a lane: uplane adopt UNIT LANE")}
			}
			return nil
		},
	}
	c.Flags().BoolVar(&undo, "undo", false, "have it run outside again")
	c.RunE = func(c *cobra.Command, args []string) error {
		unit, err := units.CheckUnit(args[0])
		if err != nil {
			return usageError{fmt.Errorf("adopt: %w", err)}
		}
		if os.Geteuid() != 0 {
			return fmt.Errorf("adopt %s: %w", unit, api.ErrDenied)
		}
		if undo {
			err = release(c.Context(), unit)
		} else {
			err = adopt(c.Context(), unit, args[1])
		}
		if err != nil {
			return fmt.Errorf("adopt: %w", err)
		}
		return nil
	}
	return c
}

func adopt(ctx context.Context, unit, lane string) error {
	path, undo, err := units.Adopt(units.Dir, unit, lane)
	if err != nil {
		return err
	}
	if complaint := verify(ctx, unit, path); complaint != "" {
		return errors.Join(fmt.Errorf("systemd does not take %s: %s", path, complaint), undo())
	}
	if err := units.Reload(ctx); err != nil {
		return fmt.Errorf("have systemd read %s: %w", path, err)
	}
	fmt.Printf("%s runs in lane %s from its next start: systemctl restart %s\n", unit, lane, unit)
	fmt.Printf("to start it with the lane: systemctl enable %s\n", unit)
	return nil
}

func release(ctx context.Context, unit string) error {
	if err := units.Release(units.Dir, unit); err != nil {
		return err
	}
	if err := units.Reload(ctx); err != nil {
		return fmt.Errorf("have systemd read its units: %w", err)
	}
	fmt.Printf("%s runs outside of lanes from its next start: systemctl restart %s\n", unit, unit)
	return nil
}

// verify returns systemd's complaint about the drop-in at path, or "". Complaints about the rest of the unit are not
// ours. Without systemd-analyze nothing is checked.
func verify(ctx context.Context, unit, path string) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, "systemd-analyze", "verify", "--man=no", unit).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, path) {
			return strings.TrimSpace(line)
		}
	}
	return ""
}
