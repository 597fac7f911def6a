package api

import (
	"encoding/xml"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/godbus/dbus/v5"
	"github.com/godbus/dbus/v5/introspect"
)

// propertiesInterface is D-Bus's own. All properties are read-only, so Set
// needs no authorisation to say so.
var propertiesInterface = iface{
	name: properties,
	methods: []method{
		{name: "Get", in: "interface:s name:s", out: "value:v", needs: always(Read), reads: true, run: getProperty},
		{name: "GetAll", in: "interface:s", out: "values:a{sv}", needs: always(Read), reads: true, run: getAllProperties},
		{name: "Set", in: "interface:s name:s value:v", run: setProperty},
	},
	signals: []introspect.Signal{{Name: "PropertiesChanged", Args: describe("interface:s changed:a{sv} invalidated:as", "")}},
}

var objectManagerInterface = iface{
	name: objectManager,
	methods: []method{
		{name: "GetManagedObjects", out: "objects:a{oa{sa{sv}}}", needs: always(Read), reads: true, run: managedObjects},
	},
	signals: []introspect.Signal{
		{Name: "InterfacesAdded", Args: describe("object:o interfaces:a{sa{sv}}", "")},
		{Name: "InterfacesRemoved", Args: describe("object:o interfaces:as", "")},
	},
}

// introspectableInterface needs no authorisation: /run/netns shows everybody
// which lanes there are.
var introspectableInterface = iface{name: introspectable, methods: []method{
	{name: "Introspect", out: "xml:s", reads: true, run: introspectObject},
}}

var peerInterface = iface{name: peer, methods: []method{
	{name: "Ping", run: func(*request) ([]any, error) { return nil, nil }},
	{name: "GetMachineId", out: "id:s", run: machineID},
}}

// What objects have. Not initialized in place, for Introspect looks at them.
var rootInterfaces, laneInterfaces, plainInterfaces []*iface

func init() {
	plainInterfaces = []*iface{&introspectableInterface, &peerInterface}
	rootInterfaces = append([]*iface{&managerInterface, &objectManagerInterface, &propertiesInterface}, plainInterfaces...)
	laneInterfaces = append([]*iface{&laneInterface, &propertiesInterface}, plainInterfaces...)
}

// interfacesAt returns what the object at path has, if there can be one.
func interfacesAt(path dbus.ObjectPath) (all []*iface, lane string) {
	if path == Path {
		return rootInterfaces, ""
	}
	if lane, ok := laneOf(path); ok && lane != "" {
		return laneInterfaces, lane
	}
	if path == "/" || strings.HasPrefix(string(lanesPath)+"/", string(path)+"/") {
		return plainInterfaces, "" // on the way
	}
	return nil, ""
}

// at returns the interface of the request's object whose name is the first argument.
func (r *request) at() (*iface, error) {
	name := arg[string](r, 0)
	all, _ := interfacesAt(r.path)
	i := slices.IndexFunc(all, func(i *iface) bool { return i.name == name })
	if i < 0 {
		return nil, protocolError(unknownInterface, "%s has no interface %.80q", r.path, name)
	}
	return all[i], nil
}

func getProperty(r *request) ([]any, error) {
	i, err := r.at()
	if err != nil {
		return nil, err
	}
	p, err := i.property(arg[string](r, 1))
	if err != nil {
		return nil, err
	}
	return []any{dbus.MakeVariant(p.of(r.session.find(r.lane)))}, nil
}

func (i *iface) property(name string) (*property, error) {
	at := slices.IndexFunc(i.properties, func(p property) bool { return p.name == name })
	if at < 0 {
		return nil, protocolError(unknownProperty, "%s has no property %.80q", i.name, name)
	}
	return &i.properties[at], nil
}

func getAllProperties(r *request) ([]any, error) {
	if arg[string](r, 0) == "" && r.lane != "" {
		return []any{r.session.find(r.lane).values()}, nil
	}
	i, err := r.at()
	if err != nil {
		return nil, err
	}
	if len(i.properties) == 0 {
		return []any{values{}}, nil
	}
	return []any{r.session.find(r.lane).values()}, nil
}

func setProperty(r *request) ([]any, error) {
	i, err := r.at()
	if err != nil {
		return nil, err
	}
	if _, err := i.property(arg[string](r, 1)); err != nil {
		return nil, err
	}
	return nil, protocolError(readOnly, "%s: read-only; use a method", arg[string](r, 1))
}

func managedObjects(r *request) ([]any, error) {
	out := map[dbus.ObjectPath]map[string]values{}
	for i := range r.session.published {
		l := &r.session.published[i]
		out[LanePath(l.Name)] = map[string]values{LaneInterface: l.values()}
	}
	return []any{out}, nil
}

func introspectObject(r *request) ([]any, error) {
	all, _ := interfacesAt(r.path)
	node := introspect.Node{Name: string(r.path)}
	for _, i := range all {
		node.Interfaces = append(node.Interfaces, i.introspect())
	}
	if r.path == lanesPath {
		for _, l := range r.session.published {
			node.Children = append(node.Children, introspect.Node{Name: escape(l.Name)})
		}
	} else if rest, ok := strings.CutPrefix(string(lanesPath), strings.TrimSuffix(string(r.path), "/")+"/"); ok {
		child, _, _ := strings.Cut(rest, "/")
		node.Children = []introspect.Node{{Name: child}}
	}
	text, err := introspection(&node)
	return []any{text}, err
}

// introspection is a node as the specification has it.
func introspection(node *introspect.Node) (string, error) {
	text, err := xml.MarshalIndent(node, "", "  ")
	if err != nil {
		return "", err
	}
	return `<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"
  "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">
` + emptyElement.ReplaceAllString(string(text), "/>") + "\n", nil
}

var emptyElement = regexp.MustCompile(`></[a-z]+>`)

func machineID(*request) ([]any, error) {
	id, err := os.ReadFile("/etc/machine-id")
	return []any{strings.TrimSpace(string(id))}, err
}
