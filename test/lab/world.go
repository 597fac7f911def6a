package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// Kind says what a world has in it.
type Kind int

// The kinds of world.
const (
	Bare  Kind = iota // the host alone, without cards: for tests of the kernel's side
	Plain             // two cards in two local networks
	Twin              // two cards in one local network with two gateways
)

// Options change what [New] builds; the zero value is good.
type Options struct {
	// NoNM leaves D-Bus and NetworkManager out: the cards stay down and without addresses. Not for
	// [Boot].
	NoNM bool
	// NMLogLevel is NetworkManager's log level; INFO if empty.
	NMLogLevel string
	// RPFilter is the host's net.ipv4.conf.{all,default}.rp_filter: 1 is strict.
	RPFilter int
	// RenewEvery is the T1 that the DHCP servers send: after that time the host asks to keep its
	// lease, and so hears what [Gateway.SetDHCP] changed. Zero is half an hour, and the least is
	// [QuickRenewal].
	RenewEvery time.Duration
	// Packages are Debian's that a [Machine] has beside those that all have. With each set of them comes
	// an image of its own.
	Packages []string
}

// QuickRenewal is the shortest T1 that dnsmasq sends; it ignores less. (NetworkManager has no way to
// be asked for a renewal, and drops the server's FORCERENEW.)
const QuickRenewal = 3 * time.Second

// World is a host with what is around it. Commands, sockets and captures may be used from several
// goroutines; what changes the world itself (NetworkManager, DHCP, carrier) from one at a time.
type World struct {
	Host  *Host
	Wire  *Gateway // of enp7s0; nil in a bare world, as are the others
	Wifi  *Gateway // of wlp6s0
	Wifi2 *Router  // a second router in the wifi network
	Inet  *Inet

	kind    Kind
	options Options
	holder  *holder
	booted  bool // its host is a [Machine]'s
	bus, nm service

	mu      sync.Mutex
	running []*Cmd
	closed  bool
	closers []io.Closer
}

// needs are the programs that a world starts and that "make setup" installs.
func needs(kind Kind, options Options, image string) []string {
	programs := []string{"ip"}
	if kind != Bare {
		programs = append(programs, "nft", "dnsmasq")
	}
	switch {
	case image != "":
		programs = append(programs, "systemd-nspawn")
	case kind != Bare && !options.NoNM:
		programs = append(programs, "dbus-daemon", "NetworkManager", "nmcli")
	}
	return programs
}

// New builds a world. When it returns, NetworkManager answers, and has no profile yet: see
// [World.Connect]. The context bounds the building only; the world lives until Close.
func New(ctx context.Context, kind Kind, options Options) (*World, error) {
	w, err := newWorld(kind, options, "")
	if err != nil {
		return nil, err
	}
	if err := w.build(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("build a lab world: %w", err), w.Close())
	}
	return w, nil
}

// newWorld makes the place of a world, with the disk of a machine over an image if one is named.
func newWorld(kind Kind, options Options, image string) (*World, error) {
	if os.Getuid() != 0 {
		return nil, errors.New("a lab world needs root")
	}
	if every := options.RenewEvery; every != 0 && every < QuickRenewal {
		return nil, fmt.Errorf("renewals every %v: the DHCP server can't do less than %v", every, QuickRenewal)
	}
	for _, name := range needs(kind, options, image) {
		if _, err := lookPath(name); err != nil {
			return nil, fmt.Errorf("%w: run \"make setup\"", err)
		}
	}
	holder, err := newHolder(image)
	if err != nil {
		return nil, err
	}
	w := &World{kind: kind, options: options, holder: holder}
	w.Host = &Host{Node: w.newNode("host", holder.net)}
	return w, nil
}

func (w *World) build(ctx context.Context) error {
	if err := w.setUpHost(); err != nil {
		return err
	}
	if w.kind == Bare {
		return nil
	}
	if err := errors.Join(w.wireUp(ctx), w.serve()); err != nil {
		return err
	}
	if w.options.NoNM {
		return nil
	}
	if err := w.StartBus(ctx); err != nil {
		return err
	}
	return w.StartNM(ctx)
}

func (w *World) newNode(name string, ns *os.File) *Node {
	return &Node{Name: name, world: w, ns: ns, place: w.holder.place}
}

// setUpHost gives the host the settings of a fresh machine, whatever this one's are: a new network
// namespace copies some of them.
func (w *World) setUpHost() error {
	settings := map[string]string{
		"net/ipv4/ip_forward":             "0",
		"net/ipv6/conf/all/forwarding":    "0",
		"net/ipv4/conf/all/rp_filter":     fmt.Sprint(w.options.RPFilter),
		"net/ipv4/conf/default/rp_filter": fmt.Sprint(w.options.RPFilter),
	}
	for key, value := range settings {
		if err := w.Host.Sysctl(key, value); err != nil {
			return err
		}
	}
	return w.Host.IP("link set dev lo up")
}

// Close ends every process of the world and releases its namespaces.
func (w *World) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	running := slices.Clone(w.running)
	w.mu.Unlock()

	for _, closer := range slices.Backward(w.closers) {
		_ = closer.Close()
	}
	w.holder.kill()
	for _, cmd := range running {
		_ = cmd.Wait() // it was killed
	}
	w.holder.close()
	return nil
}

// keep has Close close something.
func (w *World) keep(c io.Closer) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.closers = append(w.closers, c)
}

// spawn starts a command and remembers it for Close, which has to wait for each.
func (w *World) spawn(c *Cmd, start func() error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return fmt.Errorf("start %s: %w", c.Args[0], errClosed)
	}
	if err := start(); err != nil {
		return err
	}
	w.running = append(w.running, c)
	return nil
}

func (w *World) reaped(c *Cmd) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.running = slices.DeleteFunc(w.running, func(other *Cmd) bool { return other == c })
}

var errClosed = errors.New("the world is closed")
