package desktop

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// What can't be put into a lane, or needs not be.
var (
	ErrSnap     = errors.New("it is a snap, and those don't run in lanes")
	ErrOurs     = errors.New("it is a launcher of a lane already")
	ErrDBusOnly = errors.New("only D-Bus starts it, outside of the lane: it has no Exec line")
	ErrHidden   = errors.New("it is marked as deleted (Hidden=true)")
)

// dropped keys have a desktop prefer the launcher to the program, or show it to nobody. The types of files above all:
// where the user never chose a default, the user's own entries come first, and all links would open in the lane.
var dropped = []string{"MimeType", "Implements", "DBusActivatable", "NoDisplay", "X-KDE-Shortcuts", "X-Flatpak-RenamedFrom"}

// droppedBegin are beginnings of such keys: what starts by itself shall do so once.
var droppedBegin = []string{"X-GNOME-Autostart", "X-KDE-autostart"}

// Launcher returns the entry that starts another one's program, and its actions, in a lane. File is where the other one
// is, and uplane what its lines shall run.
func (e Entry) Launcher(file, lane, uplane string) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, err
	}
	actions := e.actions()
	var out strings.Builder
	put := func(texts ...string) { out.WriteString(strings.Join(texts, "") + "\n") }
	marked := false
	for _, l := range e.lines {
		name, isAction := strings.CutPrefix(l.group, actionGroup)
		key, _, _ := strings.Cut(l.key, "[")
		switch {
		case isAction && !slices.Contains(actions, name), slices.Contains(dropped, key),
			slices.ContainsFunc(droppedBegin, func(s string) bool { return strings.HasPrefix(key, s) }):
		case key == "Exec": // KDE has Exec[$e], too
			exec, err := inLane(l.value, file, lane, uplane)
			if err != nil {
				return nil, fmt.Errorf("[%s] Exec=%.80s: %w", l.group, l.value, err)
			}
			put(l.key, "=", exec)
		case l.group == mainGroup && (key == "Name" || key == "X-GNOME-FullName"):
			put(l.key, "=", l.value, " (by ", lane, ")")
		case l.group == mainGroup && l.key == "Actions":
			if len(actions) > 0 {
				put("Actions=", strings.Join(actions, ";"), ";")
			}
		default:
			put(l.text)
		}
		if !marked && l.group == mainGroup { // its header
			put(laneKey, "=", lane)
			put("DBusActivatable=false")
			marked = true
		}
	}
	return []byte(out.String()), nil
}

func (e Entry) check() error {
	kind, _ := e.get(mainGroup, "Type")
	name, _ := e.get(mainGroup, "Name")
	_, runs := e.get(mainGroup, "Exec")
	_, snap := e.get(mainGroup, "X-SnapInstanceName")
	switch {
	case e.Lane() != "":
		return ErrOurs
	case e.is("Hidden"):
		return ErrHidden
	case kind != "Application":
		return fmt.Errorf("it starts no program: its Type is %.40q", kind)
	case name == "":
		return errors.New("it has no Name")
	case snap:
		return ErrSnap
	case !runs && e.is("DBusActivatable"):
		return ErrDBusOnly
	case !runs:
		return errors.New("it has no Exec line")
	}
	return nil
}

// actions are those that have something to run: others the program is asked for over D-Bus.
func (e Entry) actions() (names []string) {
	value, _ := e.get(mainGroup, "Actions")
	for name := range strings.SplitSeq(value, ";") {
		if _, runs := e.get(actionGroup+name, "Exec"); runs {
			names = append(names, name)
		}
	}
	return names
}

// inLane is an Exec line that runs what another one does in a lane. The other one's arguments stay as they are written,
// with their field codes. Only the place of the entry, %k, is the program's own and not the launcher's: who looks there would find
// itself started in the lane again.
func inLane(value, file, lane, uplane string) (string, error) {
	command, err := words(unescape(value))
	switch {
	case err != nil:
		return "", err
	case len(command) == 0:
		return "", errors.New("it is empty")
	case isSnap(command):
		return "", ErrSnap
	}
	if slices.ContainsFunc(command, func(w word) bool { return w.raw == "%k" }) {
		raw := make([]string, len(command))
		for i, w := range command {
			if raw[i] = w.raw; w.raw == "%k" {
				raw[i] = quote(file)
			}
		}
		value = escape(strings.Join(raw, " "))
	}
	return escape(quote(uplane)) + " run --notify --strict " + lane + " -- " + value, nil
}
