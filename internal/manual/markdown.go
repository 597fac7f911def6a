package manual

import (
	"errors"
	"fmt"
	"strings"
)

// Bus is org.uplane.Uplane1(5), from the text of docs/dbus.md.
func Bus(markdown, release string) (string, error) {
	p := newPage("org.uplane.Uplane1", 5, release, "Uplane's D-Bus API")
	lines := strings.Split(markdown, "\n")
	if len(lines) == 0 || !strings.HasPrefix(lines[0], "# ") {
		return "", errors.New("no heading on the first line")
	}
	p.section("Description")
	p.markdown(lines[1:])
	return p.seeAlso("uplane(1), uplaned(8), busctl(1)"), nil
}

// markdown adds what our documents are made of: headings, paragraphs, lists, tables and code.
func (p *page) markdown(lines []string) {
	for len(lines) > 0 {
		line := lines[0]
		n := 1
		switch {
		case line == "":
		case strings.HasPrefix(line, "## "):
			p.section(line[3:])
		case strings.HasPrefix(line, "### "):
			p.subsection(line[4:])
		case strings.HasPrefix(line, "```"):
			n += span(lines[1:], func(l string) bool { return !strings.HasPrefix(l, "```") })
			p.verbatim(strings.Join(lines[1:n], "\n"))
			n++ // its end
		case strings.HasPrefix(line, "|"):
			n += span(lines[1:], func(l string) bool { return strings.HasPrefix(l, "|") })
			p.table(lines[:n])
		case strings.HasPrefix(line, "- "):
			n += span(lines[1:], func(l string) bool { return strings.HasPrefix(l, "  ") })
			p.begun = false
			p.WriteString(".IP \\(bu 2\n")
			p.line(inline(strings.Join(strings.Fields(strings.Join(lines[:n], " ")[2:]), " ")))
		default:
			n += span(lines[1:], func(l string) bool { return l != "" && !strings.HasPrefix(l, "|") && !strings.HasPrefix(l, "```") })
			p.text(strings.Join(lines[:n], " "))
		}
		lines = lines[min(n, len(lines)):]
	}
}

// span counts the lines that are so.
func span(lines []string, ok func(string) bool) (n int) {
	for n < len(lines) && ok(lines[n]) {
		n++
	}
	return n
}

// table adds a table, in the language of tbl(1). The widest column is broken into lines.
func (p *page) table(lines []string) {
	var rows [][]string
	for i, line := range lines {
		if i != 1 { // the ruler
			rows = append(rows, cells(line))
		}
	}
	widths := make([]int, len(rows[0]))
	widest := 0
	for _, row := range rows {
		for i := range min(len(row), len(widths)) {
			if widths[i] = max(widths[i], len(row[i])); widths[i] > widths[widest] {
				widest = i
			}
		}
	}
	form := strings.Fields(strings.Repeat("l ", len(widths)))
	form[widest] = "lx"
	p.paragraph()
	// Words in narrow columns would be torn apart to make both edges straight.
	fmt.Fprintf(p, ".ad l\n.TS\n%s\n%s.\n", strings.Join(strings.Fields(strings.Repeat("lb ", len(widths))), " "), strings.Join(form, " "))
	for _, row := range rows {
		for i, cell := range row {
			if i > 0 {
				p.WriteString("\t")
			}
			fmt.Fprintf(p, "T{\n%s\nT}", inline(cell))
		}
		p.WriteString("\n")
	}
	p.WriteString(".TE\n.ad\n")
}

func cells(line string) []string {
	out := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}
