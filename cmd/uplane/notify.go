package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"uplane/internal/api"
)

// notifyTimeout is for a desktop that has to start what shows notifications.
const notifyTimeout = 5 * time.Second

// reportOnDesktop reports an error of run also to who started the program by its icon, and sees no terminal.
func reportOnDesktop(lane string, err error, next string) {
	report(err, next)
	text := err.Error()
	if next != "" {
		text += "\ntry: " + next
	}
	if err := notify("dialog-error", "Uplane: lane "+lane, text); err != nil {
		fmt.Fprintln(os.Stderr, "uplane: the desktop was not told:", err)
	}
}

// warnOfLane tells who starts a program by its icon that nothing leaves its lane yet. The program starts all the
// same: the lane may come up any moment.
func warnOfLane(ctx context.Context, client *api.Client, lane string) {
	lanes, err := client.List(ctx)
	if err != nil {
		return // and run says why
	}
	l, err := findIn(lanes, lane)
	if err == nil && (l.State == "waiting" || l.State == "error") {
		_ = notify("dialog-warning", "Uplane: lane "+lane, sentence(l)+"\ntry: uplane status "+lane)
	}
}

// plainText keeps a notification's text from being read as markup.
var plainText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// notify shows a message by the desktop's notifications.
func notify(icon, title, text string) error {
	ctx, cancel := context.WithTimeout(context.Background(), notifyTimeout)
	defer cancel()
	conn, err := dbus.SessionBusPrivateNoAutoStartup(dbus.WithContext(ctx)) // no bus is started just for this
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.Auth(nil); err != nil {
		return err
	}
	if err := conn.Hello(); err != nil {
		return err
	}
	const name = "org.freedesktop.Notifications"
	return conn.Object(name, "/org/freedesktop/Notifications").CallWithContext(ctx, name+".Notify", 0,
		"Uplane", uint32(0), icon, title, plainText.Replace(strings.ToValidUTF8(text, "?")), []string{}, map[string]dbus.Variant{}, int32(-1)).Err
}
