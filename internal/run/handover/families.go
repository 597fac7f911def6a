package handover

import (
	"slices"
	"strings"
)

// family are commands that have in common how they hand over to a program that runs already.
type family struct {
	commands []string // a word, or two: "gio open"
	// owners are the names of processes that then own what the command opens; none: the command's.
	owners []string
	// newInstance are prefixes of the options with which it does not hand over.
	newInstance []string
	// try are options to be tried; "DIR" is a folder that the program may have for itself, below $HOME.
	try string
	// waits tells that the command waits for what it has opened.
	waits bool
	// delegate is the program outside the lane that always does the work.
	delegate string
	// opener tells that what the command opens may be of any other family.
	opener bool
}

// mozilla is a family of Firefox's kind.
func mozilla(commands ...string) family {
	return family{
		commands:    commands,
		newInstance: []string{"--new-instance", "-new-instance", "--no-remote", "-no-remote", "--headless", "-headless"},
		try:         "--new-instance --profile ~/DIR",
	}
}

// chromium is a family of Chromium's kind.
func chromium(owner string, commands ...string) family {
	return family{commands: commands, owners: []string{owner}, newInstance: []string{"--user-data-dir"}, try: `--user-data-dir="$HOME/DIR"`}
}

// families are the well-known ones.
var families = []family{
	mozilla("firefox", "firefox-esr", "firefox-bin"),
	mozilla("librewolf"),
	mozilla("thunderbird", "thunderbird-esr", "thunderbird-bin"),
	chromium("chromium", "chromium", "chromium-browser"),
	chromium("chrome", "google-chrome", "google-chrome-stable"),
	chromium("brave", "brave-browser", "brave-browser-stable"),
	chromium("msedge", "microsoft-edge", "microsoft-edge-stable"),
	chromium("vivaldi-bin", "vivaldi", "vivaldi-stable"),
	chromium("code", "code"),
	chromium("codium", "codium"),
	{
		commands:    []string{"libreoffice", "soffice", "lowriter", "localc", "loimpress", "lodraw"},
		owners:      []string{"soffice.bin"},
		newInstance: []string{"-env:UserInstallation"},
		try:         `-env:UserInstallation="file://$HOME/DIR"`,
	},
	{commands: []string{"gimp"}, newInstance: []string{"--new-instance", "-n"}, try: "--new-instance"},
	{commands: []string{"gedit"}, newInstance: []string{"--standalone", "-s"}, try: "--standalone"},
	{commands: []string{"vlc"}, newInstance: []string{"--no-one-instance"}, try: "--no-one-instance"},
	{commands: []string{"steam"}},

	{commands: []string{"xfce4-terminal"}, newInstance: []string{"--disable-server"}, try: "--disable-server"},
	{commands: []string{"mate-terminal"}, newInstance: []string{"--disable-factory"}, try: "--disable-factory"},
	{commands: []string{"lxterminal"}, newInstance: []string{"--no-remote"}, try: "--no-remote"},
	{commands: []string{"terminator"}, newInstance: []string{"--no-dbus", "-u"}, try: "--no-dbus"},
	{commands: []string{"tilix"}, newInstance: []string{"--new-process"}, try: "--new-process"},
	{commands: []string{"urxvtc"}, owners: []string{"urxvtd"}},
	{commands: []string{"footclient"}, owners: []string{"foot"}, waits: true},
	{commands: []string{"tmux"}, owners: []string{"tmux: server"}, newInstance: []string{"-L", "-S"}, try: "-L LANE", waits: true},
	{commands: []string{"emacsclient"}, owners: []string{"emacs", "emacs-gtk", "emacs-lucid", "emacs-nox", "emacs-pgtk"}, newInstance: []string{"-s", "--socket-name"}, waits: true},

	{commands: []string{"gnome-terminal"}, delegate: "gnome-terminal-server, which the session's bus starts"},
	{commands: []string{"systemd-run"}, newInstance: []string{"--scope"}, delegate: "systemd"},
	{commands: []string{"xdg-open", "gio open", "gio launch", "gtk-launch", "exo-open", "kde-open", "kde-open5", "sensible-browser"}, opener: true},
}

// owned are the processes' names of everything well-known that has windows.
func owned() (names []string) {
	for _, f := range families {
		switch {
		case f.waits || f.delegate != "" || f.opener:
		case f.owners != nil:
			names = append(names, f.owners...)
		default:
			names = append(names, f.commands...)
		}
	}
	return names
}

// informational tells whether a command is only asked about itself.
func informational(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "--version" || a == "--help" })
}

// hasNewInstanceOption tells whether one of these arguments has the command not hand over.
func (f *family) hasNewInstanceOption(args []string) bool {
	for _, a := range args {
		if f.waits && !strings.HasPrefix(a, "-") {
			return false // what follows is for the server
		}
		for _, option := range f.newInstance {
			short := len(option) == 2
			if a == option || strings.HasPrefix(a, option+"=") || short && strings.HasPrefix(a, option) {
				return true
			}
		}
	}
	return false
}
