package vvfat

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
)

// maxOpen is how many files are open at a time, but for those that are being read.
const maxOpen = 16

// fileCache reads files of the folder by the plan.
type fileCache struct {
	root *os.Root
	dir  string // for messages

	mu   sync.Mutex
	open []*openFile // the one used last is at the end
}

type openFile struct {
	*os.File
	it    *item
	users int
	gone  bool // from the cache: the last user closes it
}

// read fills b from an offset of a file, and makes sure that it still is the file of the plan.
func (c *fileCache) read(ctx context.Context, it *item, b []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f, err := c.get(it)
	if err != nil {
		return err
	}
	defer c.put(f)
	_, err = f.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return driver.Errorf(err, "could not read '%s': %w", c.name(it), err)
	}
	// After reading: what has changed before, or meanwhile, shows.
	return c.check(f.File, it)
}

func (c *fileCache) name(it *item) string { return path.Join(c.dir, it.path()) }

// check compares an open file with the plan.
func (c *fileCache) check(f *os.File, it *item) error {
	info, err := f.Stat()
	if err != nil {
		return driver.Errorf(err, "could not look at '%s': %w", c.name(it), err)
	}
	if !it.is(info) {
		return c.changed(it)
	}
	return nil
}

func (c *fileCache) changed(it *item) error {
	return driver.Errorf(driver.ErrTruncated, "'%s' has changed since the folder was opened as a disk", c.name(it))
}

// is says whether a file still looks as in the plan.
func (it *item) is(info fs.FileInfo) bool {
	return info.Mode().IsRegular() && info.Size() == it.size && info.ModTime().Equal(it.mtime)
}

// get returns an open file for one user.
func (c *fileCache) get(it *item) (*openFile, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.open, func(f *openFile) bool { return f.it == it }); i >= 0 {
		f := c.open[i]
		c.open = append(slices.Delete(c.open, i, i+1), f)
		f.users++
		return f, nil
	}
	// A pipe that has taken the place of a file is not waited for.
	file, err := c.root.OpenFile(it.path(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, driver.Errorf(err, "'%s' has gone since the folder was opened as a disk", c.name(it))
	}
	if err != nil {
		return nil, driver.Errorf(err, "could not open '%s': %w", c.name(it), err)
	}
	if err := c.check(file, it); err != nil {
		_ = file.Close()
		return nil, err
	}
	f := &openFile{File: file, it: it, users: 1}
	c.open = append(c.open, f)
	if len(c.open) > maxOpen {
		c.drop(0)
	}
	return f, nil
}

// drop takes a file from the cache. Called with mu.
func (c *fileCache) drop(i int) {
	f := c.open[i]
	c.open = slices.Delete(c.open, i, i+1)
	if f.gone = true; f.users == 0 {
		_ = f.Close()
	}
}

func (c *fileCache) put(f *openFile) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.users--; f.gone && f.users == 0 {
		_ = f.Close()
	}
}

// forget closes what is open, or one file only.
func (c *fileCache) forget(it *item) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := len(c.open) - 1; i >= 0; i-- {
		if it == nil || c.open[i].it == it {
			c.drop(i)
		}
	}
}
