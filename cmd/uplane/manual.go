//go:build manual

package main

import (
	"errors"
	"log"
	"os"

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
		root.GenBashCompletionFileV2(dir+"/uplane.bash", true),
		root.GenZshCompletionFile(dir+"/uplane.zsh"),
		root.GenFishCompletionFile(dir+"/uplane.fish", true),
	)
}
