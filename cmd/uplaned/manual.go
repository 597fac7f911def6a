//go:build manual

package main

import (
	"log"
	"os"

	flag "github.com/spf13/pflag"

	"uplane/internal/manual"
	"uplane/internal/version"
)

// With this tag the program writes its manual page into a folder instead.
func init() {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	new(options).flags(flags)
	if err := os.WriteFile(os.Args[1]+"/uplaned.8", []byte(manual.Daemon(flags, version.Number)), 0o644); err != nil {
		log.Fatal(err)
	}
	os.Exit(0)
}
