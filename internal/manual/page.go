// Package manual writes the manual pages, from what the programs say of themselves with --help, from the
// configuration's own list of keys, and from docs/dbus.md.
package manual

import (
	"fmt"
	"regexp"
	"strings"
)

// page is a manual page in the making, in the language of man(7).
type page struct {
	strings.Builder
	begun bool // a heading was the last
}

// newPage begins a page such as uplane(1). Release shows at its foot.
func newPage(name string, section int, release, about string) *page {
	p := &page{}
	p.WriteString("'\\\" t\n") // some have tables
	fmt.Fprintf(p, ".TH %s %d \"\" %q %q\n", strings.ToUpper(name), section, "Uplane "+release, "Uplane")
	p.section("Name")
	p.line(name + " \\- " + escape(about))
	return p
}

func (p *page) line(text string) {
	if strings.HasPrefix(text, ".") || strings.HasPrefix(text, "'") {
		text = `\&` + text
	}
	p.WriteString(text + "\n")
}

func (p *page) section(title string) {
	fmt.Fprintf(p, ".SH %s\n", escape(strings.ToUpper(title)))
	p.begun = true
}

func (p *page) subsection(title string) {
	fmt.Fprintf(p, ".SS %s\n", escape(title))
	p.begun = true
}

// paragraph parts what follows from what was before, if there was something.
func (p *page) paragraph() {
	if !p.begun {
		p.WriteString(".PP\n")
	}
	p.begun = false
}

// text adds paragraphs, which empty lines part.
func (p *page) text(paragraphs string) {
	for paragraph := range strings.SplitSeq(strings.TrimSpace(paragraphs), "\n\n") {
		p.paragraph()
		p.line(inline(strings.Join(strings.Fields(paragraph), " ")))
	}
}

// item adds a term and what is to be said of it.
func (p *page) item(term, text string) {
	p.begun = false
	p.WriteString(".TP\n")
	p.line(`\fB` + escape(term) + `\fR`)
	p.line(inline(strings.Join(strings.Fields(text), " ")))
}

// verbatim adds lines as they are.
func (p *page) verbatim(lines string) {
	p.paragraph()
	p.WriteString(".RS 4\n.EX\n")
	for line := range strings.SplitSeq(strings.Trim(lines, "\n"), "\n") {
		p.line(escape(line))
	}
	p.WriteString(".EE\n.RE\n")
}

// seeAlso ends the page.
func (p *page) seeAlso(others string) string {
	p.section("See also")
	p.text(others)
	return p.String()
}

var special = strings.NewReplacer(`\`, `\e`, "-", `\-`, "^", `\(ha`, "~", `\(ti`, "`", `\(ga`)

// escape makes text of what could mean something to man(7).
func escape(s string) string { return special.Replace(s) }

var (
	link = regexp.MustCompile(`\[([^]]*)\]\([^)]*\)`)
	mark = regexp.MustCompile("`([^`]+)`|\\*\\*([^*]+)\\*\\*")
)

// inline is escape for text with Markdown's marks: `code` and **bold** are bold, of a link stays its text.
func inline(s string) string {
	s = link.ReplaceAllString(s, "$1")
	var b strings.Builder
	end := 0
	for _, m := range mark.FindAllStringSubmatchIndex(s, -1) {
		b.WriteString(escape(s[end:m[0]]) + `\fB`)
		if m[2] >= 0 {
			b.WriteString(escape(s[m[2]:m[3]]))
		} else {
			b.WriteString(escape(s[m[4]:m[5]]))
		}
		b.WriteString(`\fR`)
		end = m[1]
	}
	return b.String() + escape(s[end:])
}
