//go:build manual

package main

import (
	_ "embed"
	"errors"
	"log"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"uplane/internal/manual"
	"uplane/internal/version"
)

// With this tag the program writes its manual pages and shell completions into a folder instead. It is run
// where docs/ is.
func init() {
	if err := writeManual(os.Args[1]); err != nil {
		log.Fatal(err)
	}
	os.Exit(0)
}

func writeManual(dir string) error {
	text, err := os.ReadFile("docs/dbus.md")
	if err != nil {
		return err
	}
	bus, err := manual.Bus(string(text), version.Number)
	if err != nil {
		return err
	}
	root := command()
	write := func(name, page string) error { return os.WriteFile(dir+"/"+name, []byte(page), 0o644) }
	return errors.Join(
		write("uplane.1", manual.Command(root, version.Number)),
		write("uplane.toml.5", manual.Config(version.Number)),
		write("org.uplane.Uplane1.5", bus),
		writeCompletions(root, write),
	)
}

// The scripts complete the command line that follows "run LANE".
var (
	//go:embed completion/run.bash
	runBash string
	//go:embed completion/run.zsh
	runZsh string
	//go:embed completion/run.fish
	runFish string
)

func writeCompletions(root *cobra.Command, write func(name, text string) error) error {
	var bash, zsh, fish strings.Builder
	err := errors.Join(root.GenBashCompletionV2(&bash, true), root.GenZshCompletion(&zsh), root.GenFishCompletion(&fish, true))
	if err != nil {
		return err
	}
	// zsh runs the file when it is first asked, whose end then calls what it has defined.
	const end = "# don't run the completion function when being source-ed or eval-ed"
	define, call, found := strings.Cut(zsh.String(), end)
	if !found {
		return errors.New("cobra's completion for zsh has another end")
	}
	return errors.Join(
		write("uplane.bash", bash.String()+runBash),
		write("uplane.zsh", define+runZsh+end+call),
		write("uplane.fish", fish.String()+runFish),
	)
}
