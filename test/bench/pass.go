package main

import (
	"fmt"
	"time"

	"uplane/test/lab"
)

// laneCounts are the sizes at which a pass is measured.
var laneCounts = []int{1, 10, 100, 1000}

const passesEach = 20

// looping is the loop helper as the program sees it, in a bare world.
type looping struct {
	*helper
	world *lab.World
}

func (b *bench) looping() (looping, error) {
	w, err := lab.New(b.ctx, lab.Bare, lab.Options{})
	if err != nil {
		return looping{}, err
	}
	h, err := b.startHelper(w.Host.Node, "loop")
	if err != nil {
		_ = w.Close()
		return looping{}, err
	}
	return looping{h, w}, nil
}

func (l looping) close() {
	l.end()
	_ = l.world.Close()
}

// work is what one pass took.
type work struct {
	took              time.Duration
	lists, operations int
}

func (l looping) do(format string, args ...any) (w work, err error) {
	text, err := l.ask(fmt.Sprintf(format, args...))
	if err != nil {
		return w, err
	}
	_, err = fmt.Sscan(text, (*int64)(&w.took), &w.lists, &w.operations)
	return w, err
}

func passes(b *bench) (section, error) {
	s := section{
		How: `The daemon's loop on the real kernel and firewall, with a made-up uplink and without D-Bus. *Nothing changed* is a poke;
*a link changed* is an event of an interface that no lane uses, after which links, addresses and routes are read again;
*another gateway* has every lane's default replaced. Lists are netlink dumps.`,
		Table: table{{"lanes", "pass", "n", "median", "p95", "lists", "operations"}},
	}
	l, err := b.looping()
	if err != nil {
		return s, err
	}
	defer l.close()
	most := map[string][]int{} // lists, by kind and size
	for _, n := range laneCounts {
		b.progress("  %d lanes", n)
		built, err := l.do("lanes %d", n)
		if err != nil {
			return s, err
		}
		s.Table.row(fmt.Sprint(n), "build", "1", ms(built.took), "", fmt.Sprint(built.lists), fmt.Sprint(built.operations))
		for _, kind := range []string{"idle", "link", "gateway"} {
			var took samples
			var last work
			for range passesEach {
				if last, err = l.do("%s", kind); err != nil {
					return s, err
				}
				took = append(took, last.took)
			}
			name := map[string]string{"idle": "nothing changed", "link": "a link changed", "gateway": "another gateway"}[kind]
			s.Table.row(fmt.Sprint(n), name, fmt.Sprint(len(took)), ms(took.median()), ms(took.p95()), fmt.Sprint(last.lists), fmt.Sprint(last.operations))
			most[kind] = append(most[kind], last.lists)
		}
	}
	constant := true
	for _, lists := range most {
		for _, n := range lists {
			constant = constant && n == lists[0]
		}
	}
	s.aim(constant, "as many lists for a thousand lanes as for one", "nothing changed %v, a link %v, another gateway %v", most["idle"], most["link"], most["gateway"])
	return s, nil
}
