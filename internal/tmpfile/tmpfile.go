// Package tmpfile makes temporary files of which nothing is left when the process is
// killed: where the system can, they have no name until they get their final one.
package tmpfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// File is a temporary file. Its own methods may be used by one goroutine at a time; those of
// os.File by several, as of any file, until Finish, Rename or Discard.
type File struct {
	*os.File
	dir, pattern string
	named        bool   // it has the name that File says
	path         string // for Path
	closed       bool
}

// Create makes a file in dir, "" for the system's folder for temporary files, that will
// get a name in that folder. The pattern is that of os.CreateTemp, for where the file has
// to have a name. Only the user may read it until Finish.
func Create(dir, pattern string) (*File, error) {
	dir = folder(dir)
	if f := create(dir, pattern); f != nil {
		return f, nil
	}
	return CreateNamed(dir, pattern)
}

// CreateNamed is Create for a file that other processes open by its name.
func CreateNamed(dir, pattern string) (*File, error) {
	dir = folder(dir)
	f, err := os.CreateTemp(dir, pattern)
	if err != nil {
		return nil, err
	}
	return &File{File: f, dir: dir, pattern: pattern, named: true, path: f.Name()}, nil
}

// Anonymous makes a file that never gets a name. Where the system does not delete a file
// that is open, Discard does.
func Anonymous(dir, pattern string) (*File, error) {
	f, err := Create(dir, pattern)
	if err == nil && f.named {
		f.named = os.Remove(f.Name()) != nil
	}
	return f, err
}

func folder(dir string) string {
	if dir == "" {
		return os.TempDir()
	}
	return dir
}

// Path is a name by which this process, and no other, can open the file that Create made
// until Rename or Discard.
func (f *File) Path() string { return f.path }

// Finish sets the mode and puts the content on the disk. Nothing can be written any more.
func (f *File) Finish(mode fs.FileMode) error {
	err := errors.Join(f.Chmod(mode), f.Sync())
	if f.named { // an open file cannot be renamed everywhere
		f.closed = true
		return errors.Join(err, f.Close())
	}
	return err
}

// Rename gives a finished file its name in the folder, which another file may have, and
// closes it.
func (f *File) Rename(name string) error {
	final := filepath.Join(f.dir, name)
	if f.named {
		return f.rename(final)
	}
	if err := f.link(final); err == nil {
		return f.close()
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	// No call of the system puts a file without a name in the place of another.
	other, err := os.CreateTemp(f.dir, f.pattern)
	if err != nil {
		return err
	}
	if err := errors.Join(other.Close(), os.Remove(other.Name()), f.link(other.Name())); err != nil {
		return err
	}
	if err := os.Rename(other.Name(), final); err != nil {
		return errors.Join(err, os.Remove(other.Name()))
	}
	return f.close()
}

func (f *File) rename(final string) error {
	if err := os.Rename(f.Name(), final); err != nil {
		return err
	}
	f.named = false
	return f.close()
}

func (f *File) close() error {
	if f.closed {
		return nil
	}
	f.closed = true
	return f.Close()
}

// Discard closes the file and deletes it, unless Rename succeeded.
func (f *File) Discard() error {
	err := f.close()
	if f.named {
		f.named = false
		err = errors.Join(err, os.Remove(f.Name()))
	}
	return err
}
