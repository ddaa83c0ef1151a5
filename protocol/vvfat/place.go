package vvfat

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/fat"
)

// applier brings the folder to a state once.
type applier struct {
	ctx     context.Context
	n       *node
	root    *os.Root
	keep    bool                 // remove nothing
	partner map[*fat.File]*item  // what files of the guest are in the folder
	used    map[*item]bool       // items with a partner
	staged  map[*fat.File]string // temporary files with contents
	known   map[*item]*names
	touched map[*item]bool // folders in which names have changed
}

func newApplier(ctx context.Context, n *node) *applier {
	return &applier{
		ctx: ctx, n: n, root: n.files.root,
		partner: map[*fat.File]*item{}, used: map[*item]bool{}, staged: map[*fat.File]string{},
		known: map[*item]*names{}, touched: map[*item]bool{},
	}
}

func (a *applier) run(root *fat.File) error {
	a.match(root)
	if err := a.stage(root); err != nil {
		return err
	}
	if err := a.place(root, a.n.top); err != nil {
		return err
	}
	if !a.keep {
		if err := a.removeRest(a.n.top); err != nil {
			return err
		}
	}
	return a.sync()
}

// finish removes what was not renamed, and takes over where contents are now: also after
// an error, when only some have reached the folder.
func (a *applier) finish() {
	for _, name := range a.staged {
		_ = a.root.Remove(name)
	}
	size := a.n.plan.ClusterSize()
	a.n.contents = a.n.top.contents(nil, size).sorted(size)
}

// sync makes names durable.
func (a *applier) sync() error {
	for dir := range a.touched {
		f, err := a.root.Open(dir.path())
		if err != nil {
			continue // it was removed
		}
		err = syncFolder(f)
		if err = errors.Join(err, f.Close()); err != nil {
			return driver.Errorf(err, "could not sync folder '%s': %w", a.n.files.name(dir), err)
		}
	}
	return nil
}

// place gives all in a directory of the guest its name and content, and goes on below it. dir is
// where it has to be already.
func (a *applier) place(d *fat.File, dir *item) error {
	siblings := map[string]bool{}
	for _, f := range d.Children {
		siblings[fat.Fold(f.Name)] = true
	}
	for _, f := range d.Children {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		name := a.hostName(f, siblings)
		err := a.placeOne(f, dir, name)
		if err != nil {
			return driver.Errorf(err, "could not bring '%s' in folder '%s' to what the guest has: %w", path.Join(dir.path(), name), a.n.files.dir, err)
		}
	}
	for _, f := range d.Children {
		if f.Dir {
			if err := a.place(f, a.partner[f]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *applier) placeOne(f *fat.File, dir *item, name string) error {
	it, target := a.partner[f], path.Join(dir.path(), name)
	temp, staged := a.staged[f]
	moves := it != nil && (it.parent != dir || it.name != name)
	if it == nil || moves {
		if err := a.clear(dir, name, it); err != nil {
			return err
		}
	}
	switch {
	case it == nil:
		err := error(nil)
		if f.Dir {
			err = a.root.Mkdir(target, 0o777)
		} else {
			err = a.root.Rename(temp, target)
		}
		if err != nil {
			return err
		}
		it = &item{dir: f.Dir, name: name}
		a.adopt(it, dir)
		a.partner[f], a.used[it] = it, true
	case moves: // with the content that it has
		if err := a.root.Rename(it.path(), target); err != nil {
			return err
		}
		a.leave(it)
		it.name = name
		a.adopt(it, dir)
	case staged:
		if err := a.unchanged(it); err != nil {
			return err
		}
		if err := a.root.Rename(temp, target); err != nil {
			return err
		}
		a.n.files.forget(it)
		a.touched[dir] = true
	}
	delete(a.staged, f)
	return a.takeOver(f, it, target, staged)
}

// takeOver sets times and permissions, and remembers what the item is now.
func (a *applier) takeOver(f *fat.File, it *item, target string, written bool) error {
	it.first, it.runs, it.short, it.long = f.First, f.Runs, f.Short, f.Long
	timed := !f.Modified.IsZero() && !f.Modified.Equal(fat.Rounded(it.mtime))
	if f.Dir || !written && !timed && f.ReadOnly == readOnly(it.mode) {
		return nil
	}
	info, err := a.root.Lstat(target)
	if err != nil {
		return err
	}
	if !written && !it.is(info) {
		return nil // somebody else has changed it, whose time it keeps
	}
	// The file may be another user's, who has the last word about its permissions and time.
	if mode := info.Mode().Perm(); f.ReadOnly && !readOnly(mode) {
		_ = a.root.Chmod(target, mode&^0o222)
	} else if !f.ReadOnly && readOnly(mode) {
		_ = a.root.Chmod(target, mode|0o200)
	}
	if !f.Modified.IsZero() {
		_ = a.root.Chtimes(target, f.Modified, f.Modified)
	}
	if info, err = a.root.Lstat(target); err != nil {
		return err
	}
	it.size, it.mtime, it.mode = info.Size(), info.ModTime(), info.Mode()
	if it.size != f.Size {
		return a.n.files.changed(it)
	}
	return nil
}

func readOnly(mode fs.FileMode) bool { return mode&0o222 == 0 }

// clear makes sure that a name is free, for it or for something new. What is there and known to
// the guest by another name, or not at all any more, gets a temporary name.
func (a *applier) clear(dir *item, name string, it *item) error {
	target := path.Join(dir.path(), name)
	info, err := a.root.Lstat(target)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	i := slices.IndexFunc(dir.children, func(c *item) bool { return c.name == name })
	if i >= 0 && dir.children[i] != it {
		other := dir.children[i]
		if !other.dir {
			if err := a.unchanged(other); err != nil {
				return err
			}
		}
		aside := temporaryName()
		if _, err := a.root.Lstat(path.Join(dir.path(), aside)); !errors.Is(err, fs.ErrNotExist) {
			return fs.ErrExist
		}
		if err := a.root.Rename(target, path.Join(dir.path(), aside)); err != nil {
			return err
		}
		other.name = aside
		a.touched[dir] = true
		return nil
	}
	if it != nil { // a folder that does not tell upper case from lower
		if own, err := a.root.Lstat(it.path()); err == nil && os.SameFile(own, info) {
			return nil
		}
	}
	return driver.Errorf(driver.ErrExists, "there is something of this name that the guest does not see")
}

// adopt adds an item to a folder.
func (a *applier) adopt(it, dir *item) {
	it.parent = dir
	dir.children = append(dir.children, it)
	a.touched[dir] = true
}

// leave takes an item out of its folder.
func (a *applier) leave(it *item) {
	a.touched[it.parent] = true
	it.parent.children = slices.DeleteFunc(it.parent.children, func(c *item) bool { return c == it })
}

// removeRest removes what the guest does not have any more. What has changed in the folder
// meanwhile stays, and so do folders with something in them that the guest has never seen.
func (a *applier) removeRest(dir *item) error {
	var left []*item
	for _, it := range dir.children {
		if err := a.ctx.Err(); err != nil {
			return err
		}
		if it.dir {
			if err := a.removeRest(it); err != nil {
				return err
			}
		}
		if a.used[it] {
			left = append(left, it)
			continue
		}
		err := error(nil)
		if !it.dir {
			err = a.unchanged(it)
		}
		if err == nil {
			err = a.root.Remove(it.path())
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			a.n.warn("vvfat: '" + a.n.files.name(it) + "' was deleted by the guest, and is left in the folder: " + err.Error())
		}
		a.n.files.forget(it)
		a.touched[dir] = true
	}
	dir.children = left
	return nil
}
