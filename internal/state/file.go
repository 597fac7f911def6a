package state

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"uplane/internal/state/safefile"
)

// maxFile bounds a file's size in bytes. A lane takes about one KiB.
const maxFile = 4 << 20

// file is one file as the disk has it.
type file struct {
	path    string
	version int
	dir     fs.FileMode             // of the folder, if it is made
	check   func(data []byte) error // whether the content can be used
	data    []byte                  // nil: no file, or a bad one
	wrote   content                 // what data was made of, if it was made here
}

// content is what a file is made of: the entries of its lanes, and the JSON object
// that has what else is in it.
type content struct {
	lanes [][]byte
	rest  []byte
}

func (c content) empty() bool { return len(c.lanes) == 0 && string(c.rest) == "{}" }

// same tells whether the two are the same text. Lanes' entries are kept from one time to the
// next, so one that did not change is the same memory.
func (c content) same(o content) bool {
	return bytes.Equal(c.rest, o.rest) && slices.EqualFunc(c.lanes, o.lanes, func(a, b []byte) bool { return &a[0] == &b[0] })
}

// open reads the file. It can be written in any case; an error is to be reported,
// and says where the file was moved if what it holds cannot be used.
func (f *file) open() error {
	safefile.Clean(f.path)
	data, err := f.read()
	if err == nil {
		f.data = data
		return nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	bad := f.path + ".bad"
	if rerr := os.Rename(f.path, bad); rerr != nil {
		return fmt.Errorf("read %s: %w; starting without it", f.path, errors.Join(err, rerr))
	}
	return fmt.Errorf("read %s: %w; starting without it, it is kept as %s", f.path, err, bad)
}

func (f *file) read() ([]byte, error) {
	// The daemon never writes a link: one would make it read another's file.
	if info, err := os.Lstat(f.path); err == nil && !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	data, err := safefile.Read(f.path, maxFile)
	if err != nil {
		return nil, err
	}
	return data, f.check(data)
}

// write puts c on the disk, unless the file says the same already or there is
// nothing to say and no file. After an error the old content stays.
func (f *file) write(c content) error {
	if f.data == nil && c.empty() || f.data != nil && c.same(f.wrote) {
		return nil
	}
	text := c.text(f.version)
	if !bytes.Equal(text, f.data) {
		if len(text) > maxFile {
			return fmt.Errorf("write %s: %d KiB are more than can be read again", f.path, len(text)>>10)
		}
		if err := os.MkdirAll(filepath.Dir(f.path), f.dir); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
		if err := safefile.Write(f.path, text, 0o600); err != nil {
			return fmt.Errorf("write %s: %w", f.path, err)
		}
	}
	f.data, f.wrote = text, c
	return nil
}

func checkVersion(data []byte, want int) error {
	var head struct{ Version int }
	if err := json.Unmarshal(data, &head); err != nil {
		return err
	}
	if head.Version != want {
		return fmt.Errorf("version %d is not %d, the only one known here", head.Version, want)
	}
	return nil
}

// entry is the text of a lane in a file's "lanes".
func entry(name string, v any) []byte {
	text, err := json.MarshalIndent(v, "\t\t\t", "\t")
	if err != nil {
		panic(err) // every value was checked before
	}
	return fmt.Appendf(nil, "\t\t\t%q: %s", name, text)
}

// others is what a file has beside lanes.
func others(v any) []byte {
	text, err := json.MarshalIndent(v, "\t", "\t")
	if err != nil {
		panic(err) // as above
	}
	return text
}

// text is put together by hand: to encode a thousand lanes anew takes 80 ms.
func (c content) text(version int) []byte {
	size := len(c.rest) + 100 // of what is around
	for _, l := range c.lanes {
		size += len(l) + len(",\n")
	}
	var b bytes.Buffer
	b.Grow(size)
	fmt.Fprintf(&b, "{\n\t\"version\": %d,\n\t\"data\": {", version)
	if len(c.lanes) > 0 {
		b.WriteString("\n\t\t\"lanes\": {\n")
		for i, l := range c.lanes {
			if i > 0 {
				b.WriteString(",\n")
			}
			b.Write(l)
		}
		b.WriteString("\n\t\t}")
	}
	if string(c.rest) != "{}" {
		if len(c.lanes) > 0 {
			b.WriteByte(',')
		}
		b.Write(bytes.TrimSuffix(bytes.TrimPrefix(c.rest, []byte("{")), []byte("\n\t}")))
	}
	b.WriteString("\n\t}\n}\n")
	return b.Bytes()
}
