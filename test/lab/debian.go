package lab

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Debian is a release that a [Machine] runs, by its name.
type Debian string

// The releases that Uplane is tested on.
const (
	Bookworm Debian = "bookworm"
	Trixie   Debian = "trixie"
)

//go:embed debian.sh
var recipe string

// image is the image of a [Machine] with more packages than all of them have.
func (d Debian) image(ctx context.Context, more []string) (string, error) {
	text := recipe
	if len(more) > 0 {
		text = "more=" + strings.Join(more, ",") + "\n" + recipe
	}
	return d.Image(ctx, text)
}

// Image returns the folder with what a recipe makes of the release, and makes it when there is none. It is in the
// user's cache, under a name that changes with the recipe, and nothing writes to it any more. A recipe is a shell script
// that gets the release and the folder as its arguments.
func (d Debian) Image(ctx context.Context, recipe string) (string, error) {
	// Enough for slow mirrors, and to wait for another process that makes it.
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for machine images: %w", err)
	}
	image := filepath.Join(cache, "uplane", fmt.Sprintf("%s-%x", d, sha256.Sum256([]byte(recipe)))[:len(d)+9])
	if exists(image) {
		return image, nil
	}
	if _, err := lookPath("mmdebstrap"); err != nil {
		return "", fmt.Errorf("%w: run \"make setup\"", err)
	}
	if err := os.MkdirAll(filepath.Dir(image), 0o755); err != nil {
		return "", err
	}
	var lock *os.File
	err = poll(ctx, 100*time.Millisecond, func() (err error) {
		lock, err = lockImage(image)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("wait for another process to make %s: %w", image, err)
	}
	defer lock.Close()
	if exists(image) {
		return image, nil
	}
	if err := removeUnfinished(filepath.Dir(image)); err != nil {
		return "", err
	}
	return image, d.make(ctx, recipe, image, lock)
}

// lockImage takes the lock of who makes an image; whoever has it keeps it by closing it late.
func lockImage(image string) (*os.File, error) {
	lock, err := os.OpenFile(image+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		return nil, err
	}
	return lock, nil
}

// unfinished is how the name of an image ends that is being made.
const unfinished = ".new"

// removeUnfinished removes images whose makers were stopped: some GB each, whose recipe may have changed since. Who still
// makes one has its lock.
func removeUnfinished(cache string) error {
	folders, err := filepath.Glob(filepath.Join(cache, "*"+unfinished))
	if err != nil {
		return err
	}
	var errs []error
	for _, folder := range folders {
		lock, err := lockImage(strings.TrimSuffix(folder, unfinished))
		if err != nil {
			continue
		}
		errs = append(errs, os.RemoveAll(folder))
		lock.Close()
	}
	return errors.Join(errs...)
}

func (d Debian) make(ctx context.Context, recipe, image string, lock *os.File) error {
	fmt.Fprintf(os.Stderr, "lab: making a %s image for test machines, once, in about a minute: %s\n", d, image)
	start := time.Now()
	folder := image + unfinished
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	// In namespaces of its own: mmdebstrap mounts this machine's /dev below the folder, which must not
	// be there any more when somebody deletes it, and all of it ends together.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", "-c", recipe, "recipe", string(d), folder)
	cmd.Env = environ()
	// It holds the lock too, so that it is alone even after this process was killed.
	cmd.ExtraFiles = []*os.File{lock}
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(
			fmt.Errorf("make a %s image: %w; it needs Debian's packages from the network:\n%s", d, err, tail(string(out), 20)),
			os.RemoveAll(folder))
	}
	fmt.Fprintf(os.Stderr, "lab: made the %s image in %v\n", d, time.Since(start).Round(time.Second))
	return os.Rename(folder, image)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
