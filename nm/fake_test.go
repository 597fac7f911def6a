package nm

import (
	"bufio"
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/test/lab"
)

// fake is a NetworkManager that does on a bus of its own what no real one could
// be brought to in a test: Wi-Fi without a radio, and misbehaviour.
type fake struct {
	t       *testing.T
	address string
	daemon  *os.Process
	conn    *dbus.Conn

	mu      sync.Mutex
	objects map[dbus.ObjectPath]map[string]props
	fail    int // so many fetches fail
	told    map[dbus.ObjectPath]settings
	asks    map[dbus.ObjectPath]int
	refuse  map[dbus.ObjectPath]string // the error by which a profile's settings are not told; "-": no answer
	fetches int
}

func newFake(t *testing.T) *fake {
	t.Helper()
	t.Parallel()
	lab.RequireProgram(t, "dbus-daemon")
	daemon := exec.Command("dbus-daemon", "--session", "--nofork", "--nopidfile", "--print-address", "--address=unix:dir="+t.TempDir())
	out, err := daemon.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = daemon.Process.Kill()
		_ = daemon.Wait()
	})
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{t: t, address: strings.TrimSpace(address), daemon: daemon.Process, objects: map[dbus.ObjectPath]map[string]props{
		managerPath: {ifaceManager: v("Startup", false)},
		home1:       {ifaceProfile: v("Flags", uint32(0))},
		conn:        {ifaceActive: v("Id", "home", "Uuid", "u-1", "Connection", home1, "SpecificObject", ap1)},
		ap1:         {ifaceAccessPoint: v("Ssid", []byte("Home"))},
		ip4:         {ifaceIP4: v("Gateway", "192.0.2.1")},
		dev:         {ifaceDevice: device7("wlp6s0", 2, 100)},
	}, told: map[dbus.ObjectPath]settings{home1: {"connection": {"id": "home", "uuid": "u-1"}}}, refuse: map[dbus.ObjectPath]string{}, asks: map[dbus.ObjectPath]int{}}
	f.objects[dev][ifaceDevice]["Ip6Config"] = dbus.MakeVariant(noObject)
	f.connect()
	return f
}

// connect puts NetworkManager on the bus.
func (f *fake) connect() {
	f.t.Helper()
	var err error
	if f.conn, err = dbus.Connect(f.address); err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = f.conn.Close() })
	if err := f.conn.Export(f, objectRoot, objectManager); err != nil {
		f.t.Fatal(err)
	}
	for _, path := range []dbus.ObjectPath{home1, steam1} {
		if err := f.conn.Export(fakeProfile{f, path}, path, ifaceProfile); err != nil {
			f.t.Fatal(err)
		}
	}
	if _, err := f.conn.RequestName(busName, dbus.NameFlagDoNotQueue); err != nil {
		f.t.Fatal(err)
	}
}

// GetManagedObjects is called over the bus.
func (f *fake) GetManagedObjects() (map[dbus.ObjectPath]map[string]props, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fetches++
	if f.fail > 0 {
		f.fail--
		return nil, dbus.MakeFailedError(errors.New("not now"))
	}
	objects := map[dbus.ObjectPath]map[string]props{}
	for path, ifaces := range f.objects {
		objects[path] = map[string]props{}
		for iface, p := range ifaces {
			objects[path][iface] = maps.Clone(p) // godbus reads it later
		}
	}
	return objects, nil
}

// fakeProfile is one of the fake's profiles.
type fakeProfile struct {
	*fake
	path dbus.ObjectPath
}

// GetSettings is called over the bus.
func (p fakeProfile) GetSettings() (map[string]props, *dbus.Error) {
	p.mu.Lock()
	p.asks[p.path]++
	name := p.refuse[p.path]
	out := map[string]props{}
	for section, values := range p.told[p.path] {
		out[section] = props{}
		for key, value := range values {
			out[section][key] = dbus.MakeVariant(value)
		}
	}
	p.mu.Unlock()
	switch name {
	case "":
		return out, nil
	case "-":
		<-p.t.Context().Done()
	}
	return nil, dbus.NewError(name, nil)
}

// tell has a profile say s, or answer with an error of a name.
func (f *fake) tell(path dbus.ObjectPath, s settings, refusal string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told[path], f.refuse[path] = s, refusal
	if f.objects[path] == nil {
		f.objects[path] = map[string]props{ifaceProfile: v("Flags", uint32(0))}
	}
}

// asked is how often a profile's settings were asked for.
func (f *fake) asked(path dbus.ObjectPath) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.asks[path]
}

func (f *fake) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fetches
}

func (f *fake) set(path dbus.ObjectPath, ifaces map[string]props) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ifaces == nil {
		delete(f.objects, path)
		return
	}
	f.objects[path] = ifaces
}

func (f *fake) emit(path dbus.ObjectPath, name string, body ...any) {
	f.t.Helper()
	if err := f.conn.Emit(path, name, body...); err != nil {
		f.t.Fatal(err)
	}
}

// change changes properties and tells so.
func (f *fake) change(path dbus.ObjectPath, iface string, keysAndValues ...any) {
	f.t.Helper()
	f.mu.Lock()
	maps.Copy(f.objects[path][iface], v(keysAndValues...))
	f.mu.Unlock()
	f.emit(path, propertiesChanged, iface, v(keysAndValues...), []string{})
}

// watch runs a watcher until the end of the test.
func (f *fake) watch() *Watcher {
	w := NewWatcher(Options{Address: f.address})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = w.Run(ctx) }()
	f.t.Cleanup(func() { cancel(); <-done })
	return w
}

func (f *fake) wait(w *Watcher, what string, ok func(text string) bool) {
	f.t.Helper()
	for deadline := time.Now().Add(15 * time.Second); !ok(describe(w.Snapshot().Uplinks)); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("never %s; now\n%s", what, describe(w.Snapshot().Uplinks))
		}
	}
}

func has(part string) func(string) bool {
	return func(text string) bool { return strings.Contains(text, part) }
}

// A card that roams costs one fetch per access point, and no moment without a name.
func TestFakeRoaming(t *testing.T) {
	f := newFake(t)
	w := f.watch()
	f.wait(w, "on the network", has(`active, profile "home" u-1, SSID "Home"`))
	if n := f.count(); n != 1 {
		t.Errorf("%d fetches at the start", n)
	}
	f.set(ap2, map[string]props{ifaceAccessPoint: v("Ssid", []byte("Home2"))})
	f.change(conn, ifaceActive, "SpecificObject", ap2)
	f.wait(w, "on the other access point", func(text string) bool {
		if strings.Contains(text, "active") && !strings.Contains(text, "SSID") {
			t.Error("no SSID for a moment")
		}
		return strings.Contains(text, `SSID "Home2"`)
	})
	if n := f.count(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
	// One that is not there is asked for once, and again when the device's state changes.
	f.change(conn, ifaceActive, "SpecificObject", accessPointPath+"3")
	for i := range 5 {
		f.change(ip4, ifaceIP4, "Gateway", "192.0.2."+string('1'+rune(i)))
	}
	// A signal of the fake can overtake an answer that is older (NetworkManager's can't), so the last one comes again.
	for deadline := time.Now().Add(15 * time.Second); !has("via 192.0.2.5")(describe(w.Snapshot().Uplinks)); time.Sleep(10 * time.Millisecond) {
		if f.change(ip4, ifaceIP4, "Gateway", "192.0.2.5"); time.Now().After(deadline) {
			t.Fatal("never past all")
		}
	}
	time.Sleep(100 * time.Millisecond)
	if n := f.count(); n != 3 {
		t.Errorf("%d fetches, want 3", n)
	}
	f.change(dev, ifaceDevice, "State", uint32(90))
	time.Sleep(100 * time.Millisecond)
	if n := f.count(); n != 4 {
		t.Errorf("%d fetches, want 4", n)
	}
}

// An active device that goes while NetworkManager stays is dropped after a while.
func TestFakeGhost(t *testing.T) {
	f := newFake(t)
	w := f.watch()
	f.wait(w, "active", has("active"))
	f.set(dev, nil)
	f.emit(objectRoot, interfacesRemoved, dev, []string{ifaceDevice})
	time.Sleep(200 * time.Millisecond)
	if text := describe(w.Snapshot().Uplinks); !strings.Contains(text, "active") {
		t.Errorf("dropped at once: %q", text)
	}
	f.wait(w, "dropped", func(text string) bool { return text == "" })
	if n := f.count(); n != 2 {
		t.Errorf("%d fetches, want 2", n)
	}
}

func TestFakeErrors(t *testing.T) {
	f := newFake(t)
	f.mu.Lock()
	f.fail = 2
	f.mu.Unlock()
	w := f.watch()
	f.wait(w, "active", has("active"))
	if s := w.Snapshot(); !s.Running || f.count() != 3 {
		t.Errorf("running %t after %d fetches", s.Running, f.count())
	}
	// Properties that are named only are fetched.
	f.set(ip4, map[string]props{ifaceIP4: v("Gateway", "192.0.2.9")})
	f.emit(ip4, propertiesChanged, ifaceIP4, props{}, []string{"Gateway"})
	f.wait(w, "at the other gateway", has("via 192.0.2.9"))
	// One NetworkManager takes the place of another.
	if err := f.conn.Close(); err != nil {
		t.Fatal(err)
	}
	for w.Snapshot().Running {
		time.Sleep(time.Millisecond)
	}
	f.wait(w, "kept", has("via 192.0.2.9"))
	f.set(ip4, map[string]props{ifaceIP4: v("Gateway", "192.0.2.10")})
	f.connect()
	f.wait(w, "at the third gateway", has("via 192.0.2.10"))
}

// What a profile says is asked for until it is told, and until then its network serves no lane.
func TestFakeUnread(t *testing.T) {
	f := newFake(t)
	limited := settings{"connection": {"id": "home", "uuid": "u-1"}, "user": {"data": map[string]string{"org.uplane.lanes": "steam"}}}
	f.tell(home1, limited, driver+".Error.Failed")
	w := f.watch()
	for deadline := time.Now().Add(15 * time.Second); f.asked(home1) < 3 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if s := w.Snapshot(); s.Known {
			t.Fatalf("not all is known: %+v", s)
		}
	}
	f.tell(home1, limited, "")
	f.wait(w, "limited", has(`for ["steam"]`))

	// A network that comes later.
	f.tell(steam1, settings{"connection": {"id": "other", "uuid": "u-2"}}, driver+".Error.NoReply")
	f.emit(objectRoot, interfacesAdded, steam1, map[string]props{ifaceProfile: v("Flags", uint32(0))})
	f.set(conn+"1", map[string]props{ifaceActive: v("Id", "other", "Uuid", "u-2", "Connection", steam1)})
	f.emit(objectRoot, interfacesAdded, conn+"1", map[string]props{ifaceActive: v("Id", "other", "Uuid", "u-2", "Connection", steam1)})
	f.change(dev, ifaceDevice, "ActiveConnection", conn+"1")
	f.wait(w, "unknown", has(`wlp6s0: wifi, down, profile "other"`))
	was := f.asked(steam1)
	for deadline := time.Now().Add(15 * time.Second); f.asked(steam1) < was+2 && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if text := describe(w.Snapshot().Uplinks); !strings.Contains(text, "down") {
			t.Fatal(text)
		}
	}
	f.tell(steam1, settings{"connection": {"id": "other", "uuid": "u-2"}}, "")
	f.wait(w, "read", has(`active, profile "other"`))

	// It is deleted before it is read.
	f.tell(steam1, nil, driver+".Error.UnknownMethod")
	was = f.asked(steam1)
	f.emit(steam1, profileUpdated)
	for deadline := time.Now().Add(15 * time.Second); f.asked(steam1) == was && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
	}
	f.set(steam1, nil)
	f.emit(objectRoot, interfacesRemoved, steam1, []string{ifaceProfile})
	f.change(ip4, ifaceIP4, "Gateway", "192.0.2.77")
	f.wait(w, "as it was", has("via 192.0.2.77"))
}

// What a Wi-Fi card does all the time reaches nobody who follows our rules.
func TestFakeSilence(t *testing.T) {
	f := newFake(t)
	c, err := dial(context.Background(), f.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	signals := make(chan *dbus.Signal, 100)
	c.Signal(signals)
	if err := subscribe(context.Background(), c); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		f.change(ap1, ifaceAccessPoint, "Strength", byte(70))
		for path, iface := range map[dbus.ObjectPath]string{
			dev: ifaceDevice + ".Wireless", dev + "1": ifaceDevice + ".Statistics", managerPath + "/DHCP4Config/1": busName + ".DHCP4Config",
		} {
			f.emit(path, propertiesChanged, iface, v("Bitrate", uint32(54000)), []string{})
		}
		f.emit(objectRoot, interfacesAdded, ap2, map[string]props{ifaceAccessPoint: v("Ssid", []byte("x"))})
		f.emit(objectRoot, interfacesRemoved, ap2, []string{ifaceAccessPoint})
		f.emit(objectRoot, interfacesAdded, managerPath+"/Settings/1", map[string]props{busName + ".Settings.Connection": {}})
		f.emit(dev, ifaceDevice+".StateChanged", uint32(100), uint32(90), uint32(0))
	}
	f.emit(objectRoot, interfacesAdded, dev+"1", map[string]props{ifaceDevice: {}}) // the first to be heard
	var heard []string
	for len(heard) == 0 || heard[len(heard)-1] != interfacesAdded {
		select {
		case sig := <-signals:
			if sig.Name != driver+".NameAcquired" {
				heard = append(heard, sig.Name)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("heard %q only", heard)
		}
	}
	if len(heard) != 1 {
		t.Errorf("heard %q", heard)
	}
}

// A bus that takes a connection and then says nothing does not hold up the end.
func TestFakeStoppedBus(t *testing.T) {
	f := newFake(t)
	if err := f.daemon.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	w := NewWatcher(Options{Address: f.address})
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	time.Sleep(50 * time.Millisecond)
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Error("Run goes on")
	}
	if s := w.Snapshot(); s.Known || s.Running {
		t.Errorf("%+v", s)
	}
}
