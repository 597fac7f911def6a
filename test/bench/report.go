package main

import (
	"fmt"
	"strings"
)

// section is one chapter of the report.
type section struct {
	title string
	how   string // what was measured, and how; paragraphs
	table table
	notes []string
	goals []goal
}

// table is a table of text; the first row is its head.
type table [][]string

func (t *table) row(cells ...string) { *t = append(*t, cells) }

// goal is what a measurement was to be, and what it was.
type goal struct {
	text, got string
	met       bool
}

// aim adds a goal.
func (s *section) aim(met bool, text, got string, args ...any) {
	s.goals = append(s.goals, goal{text, fmt.Sprintf(got, args...), met})
}

// note adds a remark that goes under the table.
func (s *section) note(format string, args ...any) {
	s.notes = append(s.notes, fmt.Sprintf(format, args...))
}

func (g goal) verdict() string {
	if g.met {
		return "met"
	}
	return "**missed**"
}

// markdown is the section's text.
func (s section) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", s.title, strings.TrimSpace(s.how))
	b.WriteString(s.table.markdown())
	for _, n := range s.notes {
		fmt.Fprintf(&b, "\n%s\n", n)
	}
	return b.String()
}

func (t table) markdown() string {
	var b strings.Builder
	for i, row := range t {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(row, " | "))
		if i == 0 {
			fmt.Fprintf(&b, "|%s\n", strings.Repeat("---|", len(row)))
		}
	}
	return b.String()
}

// document is the whole report.
func document(preface string, sections []section) string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\n" + preface + "\n## Goals\n\n")
	goals := table{{"section", "goal", "measured", ""}}
	for _, s := range sections {
		for _, g := range s.goals {
			goals.row(s.title, g.text, g.got, g.verdict())
		}
	}
	b.WriteString(goals.markdown())
	for _, s := range sections {
		b.WriteString("\n" + s.markdown())
	}
	return b.String()
}
