package incus

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"syscall"

	"github.com/cowl-disk/cowl/internal/tmpfile"
)

// OutputFile is a file of an image that was made.
type OutputFile struct {
	Path   string `json:"path"`
	Size   int64  `json:"size"`   // bytes
	SHA256 string `json:"sha256"` // in hexadecimal
}

// outputs are the files of an image while they are written, without names where the system
// has such, else under temporary names, in the folder of their final ones.
type outputs struct {
	dir     string
	files   []*output
	byName  bool   // other programs open them by their temporary names
	stepped func() // for tests, after each change of names
}

type output struct {
	*tmpfile.File
	final string
	info  OutputFile

	push    func() // begins to put on the disk what is written
	pushed  int64  // what written was told then
	pushing atomic.Bool
}

// pushUnit is after how many bytes of the source what was made of them is sent to the disk.
const pushUnit = 16 << 20

// written is told, by one goroutine, how many bytes of the source are in the file. They go
// to the disk while the next ones are compressed: syncing a whole image at the end would
// take longer than compressing it by a fast method.
func (f *output) written(done int64) {
	if done-f.pushed < pushUnit {
		return
	}
	f.pushed = done
	if f.pushing.CompareAndSwap(false, true) {
		go func() {
			f.push()
			f.pushing.Store(false)
		}()
	}
}

// create makes a file that will have a name.
func (o *outputs) create(name string) (*output, error) {
	if filepath.Base(name) != name || name == "." || name == ".." {
		return nil, fmt.Errorf("%q is no name for a file", name)
	}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return nil, err
	}
	create := tmpfile.Create
	if o.byName {
		create = tmpfile.CreateNamed
	}
	f, err := create(o.dir, ".cowl-incus-*")
	if err != nil {
		return nil, err
	}
	out := &output{File: f, final: filepath.Join(o.dir, name), push: f.Push}
	o.files = append(o.files, out)
	return out, nil
}

// discard removes what was not published.
func (o *outputs) discard() {
	for _, f := range o.files {
		f.Discard()
	}
}

// publish gives the files their names, once all of them are on the disk. One that has the
// name already is replaced. The first file is the metadata, without which nobody takes the
// others for an image: it goes before they are replaced and comes after them, so that
// whenever the program ends there is no file of one image beside those of another.
func (o *outputs) publish() error {
	for _, f := range o.files {
		if info, err := os.Lstat(f.final); err == nil && info.IsDir() {
			return fmt.Errorf("%s is a directory", f.final)
		}
		if err := f.Finish(0o666 &^ umask()); err != nil {
			return fmt.Errorf("write %s: %w", f.final, err)
		}
	}
	if len(o.files) > 1 {
		if err := os.Remove(o.files[0].final); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := o.step(); err != nil {
			return err
		}
	}
	for i := len(o.files) - 1; i >= 0; i-- {
		f := o.files[i]
		if err := f.Rename(filepath.Base(f.final)); err != nil {
			return err
		}
		if err := o.step(); err != nil {
			return err
		}
	}
	return nil
}

// step puts what was done with names on the disk before anything else is: a crash of the
// system keeps the order.
func (o *outputs) step() error {
	if o.stepped != nil {
		o.stepped()
	}
	if runtime.GOOS == "windows" {
		return nil // folders cannot be synced
	}
	d, err := os.Open(o.dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, errors.ErrUnsupported) {
		err = nil // nor on this file system
	}
	return errors.Join(err, d.Close())
}

// digests reads the files back, notes the size and the digest of each, and returns the
// digest of all of them one after the other. Meanwhile they go to the disk.
func (o *outputs) digests() (fingerprint string, err error) {
	synced := make(chan error, len(o.files))
	for _, f := range o.files {
		go func() {
			if err := f.Sync(); err != nil {
				synced <- fmt.Errorf("write %s: %w", f.final, err)
				return
			}
			synced <- nil
		}()
	}
	defer func() {
		for range o.files {
			err = errors.Join(err, <-synced)
		}
	}()
	if len(o.files) == 1 {
		f := o.files[0]
		err := f.sum(nil)
		return f.info.SHA256, err
	}
	all := sha256.New()
	for _, f := range o.files {
		if err := f.sum(all); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(all.Sum(nil)), nil
}

// sum reads the file back and notes its size and its digest. all, where not nil, takes
// the bytes, too.
func (f *output) sum(all hash.Hash) error {
	h := sha256.New()
	var w io.Writer = h
	if all != nil {
		w = bothHashes{h, all}
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = io.CopyBuffer(w, struct{ io.Reader }{io.NewSectionReader(f, 0, size)}, make([]byte, 1<<20))
	}
	if err != nil {
		return fmt.Errorf("read %s back: %w", f.final, err)
	}
	f.info = OutputFile{Path: f.final, Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}
	return nil
}

// bothHashes gives the same bytes to two hashes at a time.
type bothHashes struct{ a, b hash.Hash }

func (w bothHashes) Write(p []byte) (int, error) {
	done := make(chan struct{})
	go func() {
		w.a.Write(p) // never fails
		close(done)
	}()
	w.b.Write(p)
	<-done
	return len(p), nil
}
