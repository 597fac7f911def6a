package main

import (
	"context"
	"errors"

	"uplane/internal/api"
)

// withDaemon calls f with a connection to the daemon.
func withDaemon(ctx context.Context, f func(*api.Client) error) error {
	client, err := api.Dial(ctx)
	if err != nil {
		return err
	}
	defer client.Close()
	return f(client)
}

// ignoreNoDaemon drops the error that says that no daemon is running.
func ignoreNoDaemon(err error) error {
	if errors.Is(err, api.ErrNoDaemon) {
		return nil
	}
	return err
}

// reload makes the daemon read the lane files again. Without a daemon it does nothing: the next one reads them when it starts.
func reload(ctx context.Context) error {
	return ignoreNoDaemon(withDaemon(ctx, func(client *api.Client) error {
		_, err := client.Reload(ctx)
		return err
	}))
}
