package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"
)

// spawn is a helper that runs commands in the host, given as JSON lists, and
// answers with how many nanoseconds each took from fork to exit.
func spawn([]string) error {
	// A file, for a pipe would be waited for until everybody has closed it.
	complaint, err := os.CreateTemp("", "bench-")
	if err != nil {
		return err
	}
	if err := os.Remove(complaint.Name()); err != nil {
		return err
	}
	return answer(func(question string) (string, error) {
		var args []string
		if err := json.Unmarshal([]byte(question), &args); err != nil {
			return "", err
		}
		cmd := exec.Command(args[0], args[1:]...)
		if err := complaint.Truncate(0); err != nil {
			return "", err
		}
		if _, err := complaint.Seek(0, 0); err != nil {
			return "", err
		}
		cmd.Stderr = complaint
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start)
		if err != nil {
			said := make([]byte, 4096)
			n, _ := complaint.ReadAt(said, 0)
			return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, said[:n])
		}
		return fmt.Sprint(took.Nanoseconds()), nil
	})
}

// time runs a command by the spawn helper.
func (h *helper) time(args ...string) (time.Duration, error) {
	question, err := json.Marshal(args)
	if err != nil {
		return 0, err
	}
	return h.askDuration(string(question))
}

// askDuration is ask for an answer in nanoseconds.
func (h *helper) askDuration(question string) (time.Duration, error) {
	text, err := h.ask(question)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return time.Duration(n), err
}
