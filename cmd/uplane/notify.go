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

// notifyTimeout allows for a desktop that starts its notification service on demand.
const notifyTimeout = 5 * time.Second

// reportOnDesktop also shows an error of run as a desktop notification, for users who started the program from an icon.
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

// warnOfLane notifies the user that nothing leaves by the lane yet. The program starts all the same, because the lane may
// come up at any moment.
func warnOfLane(ctx context.Context, client *api.Client, lane string) {
	lanes, err := client.List(ctx)
	if err != nil {
		return // and run says why
	}
	l, err := findLane(lanes, lane)
	if err == nil && (l.State == "waiting" || l.State == "error") {
		_ = notify("dialog-warning", "Uplane: lane "+lane, summary(l)+"\ntry: uplane status "+lane)
	}
}

// plainText escapes a text, as notifications are rendered as markup.
var plainText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// notify shows a desktop notification.
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
