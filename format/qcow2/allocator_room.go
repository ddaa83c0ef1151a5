package qcow2

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// A write is acknowledged when its data is in the file and its L2 entry is in
// memory. Whatever names it on disk later (the L2 entry, the L1 entry, its
// refcount, the refcount table entry) must not need room then: the file system
// may be full by that time. So new L2 tables and refcount blocks are written when
// they are made, before they are used; and tables of the image that are in holes
// of the file are filled before the first change.

// errNoSpace is for files that cannot grow: devices.
func errNoSpace() error {
	return driver.Errorf(errors.Join(driver.ErrRange, driver.ErrNoSpace), "no space left on device")
}

// coverTables gives the L1 table and the refcount table room on disk. hdrMu is
// held, nothing was changed yet.
func (im *image) coverTables(ctx context.Context) error {
	im.meta.RLock()
	l1Off, l1End := im.l1.Off, im.l1.Off+im.l1.Bytes()
	im.meta.RUnlock()
	if err := clustertable.FillHoles(ctx, im.file, l1Off, l1End); err != nil {
		return err
	}
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.counts.CoverTable(ctx)
}

// writeNewTable puts zeroes, or what is given, at a cluster that nothing refers to
// yet, so that it has room on disk.
func (im *image) writeNewTable(ctx context.Context, off int64, content []byte) error {
	if content == nil {
		content = bufpool.Get(int(im.clusterSize))
		defer bufpool.Put(content)
		clear(content)
	}
	_, err := im.file.WriteAt(ctx, content, off)
	return err
}
