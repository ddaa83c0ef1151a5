package vvfat

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/fat"
)

// stage writes contents that the folder does not have into temporary files.
func (a *applier) stage(root *fat.File) (err error) {
	buf := make([]byte, 1<<20)
	each(root, func(f, _ *fat.File) {
		if err != nil || f.Dir {
			return
		}
		it := a.partner[f]
		if it != nil && a.sameContent(f, it) {
			return
		}
		if it != nil {
			if err = a.unchanged(it); err != nil {
				return
			}
		}
		if err = a.write(f, it, buf); err != nil {
			err = driver.Errorf(err, "could not write the content of '%s' in folder '%s': %w", f.Name, a.n.files.dir, err)
		}
	})
	return err
}

// write makes a temporary file with the content of f, and with the permissions of it.
func (a *applier) write(f *fat.File, it *item, buf []byte) (err error) {
	file, name, err := a.temporary()
	if err != nil {
		return err
	}
	a.staged[f] = name
	defer func() { err = errors.Join(err, file.Close()) }()
	at := int64(0)
	for _, r := range f.Runs {
		off := a.n.plan.start + a.n.plan.Offset(r.First)
		for left := min(int64(r.Count)*a.n.plan.ClusterSize(), f.Size-at); left > 0; {
			b := buf[:min(left, int64(len(buf)))]
			if err := a.n.read(a.ctx, b, off); err != nil {
				return err
			}
			if _, err := file.WriteAt(b, at); err != nil {
				return err
			}
			n := int64(len(b))
			off, at, left = off+n, at+n, left-n
		}
	}
	if it != nil {
		if err := keepOwner(a.root, it.path(), file); err != nil {
			return err
		}
		if err := file.Chmod(it.mode.Perm()); err != nil {
			return err
		}
	}
	return file.Sync()
}

// temporary makes a file of a name that is not in use, in the folder itself.
func (a *applier) temporary() (*os.File, string, error) {
	for range 100 {
		name := temporaryName()
		f, err := a.root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, name, err
		}
	}
	return nil, "", fs.ErrExist
}

func temporaryName() string { return fmt.Sprintf("%s%08x", tempPrefix, rand.Uint32()) }

// unchanged makes sure that a file is the one that the disk shows.
func (a *applier) unchanged(it *item) error {
	info, err := a.root.Lstat(it.path())
	if err != nil {
		return driver.Errorf(err, "could not look at '%s': %w", a.n.files.name(it), err)
	}
	if !it.is(info) {
		return a.n.files.changed(it)
	}
	return nil
}
