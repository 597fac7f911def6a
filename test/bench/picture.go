package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A picture has panels side by side, each a chart over the number of lanes.
const (
	panelWidth, panelHeight = 380, 300 // of the area inside the axes
	panelLeft, panelTop     = 70, 50   // what is beside it
	panelStep               = panelLeft + panelWidth + 40
	pictureHeight           = panelTop + panelHeight + 60
)

// panel is a chart: lanes to the right, by powers of ten, and one value upwards.
type panel struct {
	title  string
	least  float64 // at the bottom of a scale of powers of ten; 0: the scale is even and begins at 0
	most   float64
	marks  []float64 // of the scale
	format string    // of a mark
	curves []curve
}

// curve is one line of a chart.
type curve struct {
	name, colour string
	dashed       bool
	at           map[int]float64 // by number of lanes
	upto         map[int]float64 // the p95 there, if there is one
}

// svg draws panels.
func svg(panels ...panel) string {
	var b strings.Builder
	width := panelStep * len(panels)
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="13" fill="#222">`+"\n", width, pictureHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#fff"/>`+"\n", width, pictureHeight)
	for i, p := range panels {
		fmt.Fprintf(&b, `<g transform="translate(%d,%d)">`+"\n", i*panelStep+panelLeft, panelTop)
		p.draw(&b)
		b.WriteString("</g>\n")
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func (p panel) draw(b *strings.Builder) {
	fmt.Fprintf(b, `<text x="0" y="-22" font-size="15" font-weight="bold">%s</text>`+"\n", p.title)
	for _, v := range p.marks {
		y := p.y(v)
		fmt.Fprintf(b, `<line x1="0" x2="%d" y1="%.1f" y2="%.1f" stroke="#ddd"/>`, panelWidth, y, y)
		fmt.Fprintf(b, `<text x="-8" y="%.1f" text-anchor="end">`+p.format+"</text>\n", y+4, v)
	}
	for _, n := range laneCounts {
		fmt.Fprintf(b, `<line x1="%.1f" x2="%.1f" y1="0" y2="%d" stroke="#eee"/>`, p.x(n), p.x(n), panelHeight)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" text-anchor="middle">%d</text>`+"\n", p.x(n), panelHeight+20, n)
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" text-anchor="middle">lanes</text>`+"\n", panelWidth/2, panelHeight+42)
	fmt.Fprintf(b, `<path d="M0 0V%dH%d" fill="none" stroke="#222"/>`+"\n", panelHeight, panelWidth)
	for i, c := range p.curves {
		p.curve(b, c)
		y := 18 + 20*i
		fmt.Fprintf(b, `<line x1="12" x2="42" y1="%d" y2="%d" %s/><text x="50" y="%d">%s</text>`+"\n", y, y, c.stroke(), y+4, c.name)
	}
}

func (p panel) curve(b *strings.Builder, c curve) {
	var points []string
	for _, n := range slices.Sorted(maps.Keys(c.at)) {
		x, y := p.x(n), p.y(c.at[n])
		points = append(points, fmt.Sprintf("%.1f,%.1f", x, y))
		fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s"/>`, x, y, c.colour)
		if top, ok := c.upto[n]; ok {
			fmt.Fprintf(b, `<path d="M%.1f %.1fV%.1fm-4 0h8" fill="none" stroke="%s"/>`, x, y, p.y(top), c.colour)
		}
	}
	fmt.Fprintf(b, `<polyline points="%s" fill="none" %s/>`+"\n", strings.Join(points, " "), c.stroke())
}

func (c curve) stroke() string {
	dash := ""
	if c.dashed {
		dash = ` stroke-dasharray="6 4"`
	}
	return fmt.Sprintf(`stroke="%s" stroke-width="2"%s`, c.colour, dash)
}

// x is where a number of lanes is: one in the left corner, the largest at the right end.
func (p panel) x(lanes int) float64 {
	return panelWidth * math.Log(float64(lanes)) / math.Log(float64(laneCounts[len(laneCounts)-1]))
}

func (p panel) y(v float64) float64 {
	part := v / p.most
	if p.least > 0 {
		part = math.Log(v/p.least) / math.Log(p.most/p.least)
	}
	return panelHeight * (1 - min(max(part, 0), 1))
}
