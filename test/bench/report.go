package main

import (
	"fmt"
	"strings"
)

// section is one chapter of the report.
type section struct {
	Title   string
	How     string // what was measured, and how; paragraphs
	When    string // and when
	Table   table
	Notes   []string
	Figures []goal // what this release is to be measured by
	Goals   []goal // and other goals
	Picture string // the name of a file beside the report; empty: none
	Drawing string // what is in it
}

// table is a table of text; the first row is its head.
type table [][]string

func (t *table) row(cells ...string) { *t = append(*t, cells) }

// goal is what a measurement was to be, and what it was.
type goal struct {
	What, Limit, Got string
	Met              bool
}

// figure adds a goal of this release.
func (s *section) figure(met bool, what, limit, got string, args ...any) {
	s.Figures = append(s.Figures, goal{what, limit, fmt.Sprintf(got, args...), met})
}

// aim adds another goal, whose text says how much.
func (s *section) aim(met bool, text, got string, args ...any) {
	s.Goals = append(s.Goals, goal{What: text, Got: fmt.Sprintf(got, args...), Met: met})
}

// note adds a remark that goes under the table.
func (s *section) note(format string, args ...any) {
	s.Notes = append(s.Notes, fmt.Sprintf(format, args...))
}

func (g goal) verdict() string {
	if g.Met {
		return "met"
	}
	return "**missed**"
}

// markdown is the section's text.
func (s section) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n\n", s.Title, strings.TrimSpace(s.How))
	if s.When == "" {
		return b.String()
	}
	fmt.Fprintf(&b, "%s\n\n", s.When)
	if s.Picture != "" {
		fmt.Fprintf(&b, "![%s](%s)\n\n", s.Title, s.Picture)
	}
	b.WriteString(s.Table.markdown())
	for _, n := range s.Notes {
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
	figures := table{{"figure", "goal", "measured", "", "chapter"}}
	others := table{{"chapter", "goal", "measured", ""}}
	for _, s := range sections {
		for _, g := range s.Figures {
			figures.row(g.What, g.Limit, g.Got, g.verdict(), s.Title)
		}
		for _, g := range s.Goals {
			others.row(s.Title, g.What, g.Got, g.verdict())
		}
	}
	b.WriteString(figures.markdown() + "\nThe first release's goals, and what must hold besides:\n\n" + others.markdown())
	for _, s := range sections {
		b.WriteString("\n" + s.markdown())
	}
	return b.String()
}
