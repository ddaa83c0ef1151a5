package qcow2

import (
	"context"
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/bitmaps"
	"github.com/cowl-disk/cowl/format/qcow2/internal/codec"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

func openImage(ctx context.Context, req *driver.OpenRequest) (_ *image, err error) {
	im := &image{name: req.Name, env: req.Env, file: req.File, events: driver.EventsOf(req.File), data: req.File, writable: req.Access.Write, access: req.Access, refRuns: maxRefRuns}
	im.backingGiven = req.BackingGiven
	im.bm = bitmaps.New(bitmapHost{im}, im.env, im.name)
	defer func() {
		if err != nil {
			im.release()
		}
	}()
	options := req.Options.Clone()
	dataOptions := options.Sub("data-file")
	encryptOptions := options.Sub("encrypt")
	if err := openSchema.Decode(options, &im.opt); err != nil {
		return nil, err
	}
	if im.overlap, err = im.opt.overlaps(); err != nil {
		return nil, err
	}
	if err := im.loadHeader(ctx); err != nil {
		return nil, err
	}
	im.cryptMethod = im.hdr.CryptMethod
	if im.sizes, err = im.opt.caches(&im.geometry, im.size.Load(), req.Sequential); err != nil {
		return nil, err
	}
	if err := im.checkEncryptOptions(encryptOptions); err != nil {
		return nil, err
	}
	im.lazy = im.hdr.Compatible&ondisk.CompatLazyRefcounts != 0
	if im.opt.LazyRefcounts != nil {
		if *im.opt.LazyRefcounts && im.version < 3 {
			return nil, driver.Errorf(driver.ErrInvalid, "lazy refcounts require a qcow2 image with at least qemu 1.1 compatibility level")
		}
		im.lazy = *im.opt.LazyRefcounts
	}
	im.cache, im.pend = im.newCache(), clustertable.NewChanges(&im.meta)
	if err := im.loadTables(ctx); err != nil {
		return nil, err
	}
	if err := im.openDataFile(ctx, dataOptions); err != nil {
		return nil, err
	}
	if err := im.openEncryption(ctx, encryptOptions); err != nil {
		return nil, err
	}
	if !req.Access.Check {
		if err := im.tolerate("snapshot table", im.loadSnapshots(ctx), &im.snapshotDamage); err != nil {
			return nil, err
		}
		if im.snapshotDamage != nil {
			im.snap = snaptable.Table{}
		}
	}
	if err := im.tolerate("bitmap directory", im.loadBitmaps(ctx), &im.bitmapDamage); err != nil {
		return nil, err
	}
	if im.bitmapDamage != nil {
		im.bm.Fail(im.bitmapDamage)
	}
	im.codec = codec.New(im.clusterSize, im.compression)
	if im.writable {
		if err := im.openForWriting(ctx); err != nil {
			return nil, err
		}
	}
	return im, nil
}

func (im *image) release() {
	im.bm.Release()
	im.env.Budget.Release(im.budgeted)
	im.budgeted = 0
}

// reserve counts n bytes of a table against the budget until release.
func (im *image) reserve(what string, n int64) error {
	if err := im.env.Budget.Table(what, n); err != nil {
		return err
	}
	im.budgeted += n
	return nil
}

// openDataFile opens the external data file if the image has one, unless only
// metadata will be looked at.
func (im *image) openDataFile(ctx context.Context, options map[string]any) error {
	if im.hdr.Incompatible&ondisk.IncompatDataFile == 0 {
		if im.access.NoIO {
			return nil
		}
		if len(options) > 0 {
			return driver.Errorf(driver.ErrInvalid, "'data-file' can only be set for images with an external data file")
		}
		if im.hdr.Autoclear&ondisk.AutoclearDataFileRaw != 0 {
			return driver.Errorf(driver.ErrCorrupt, "data-file-raw requires a data file")
		}
		return nil
	}
	im.external = true
	if im.access.NoIO {
		return nil
	}
	im.dataRaw = im.hdr.Autoclear&ondisk.AutoclearDataFileRaw != 0
	if im.env.OpenChild == nil {
		return driver.Errorf(driver.ErrUnsupported, "'data-file' cannot be opened here")
	}
	ref := driver.ChildRef{Role: "data-file", Filename: im.dataFileName(), ReadOnly: !im.writable}
	if len(options) > 0 {
		ref.Options = options
	}
	data, err := im.env.OpenChild(ctx, ref)
	if err != nil && ref.Filename == "" {
		return driver.Errorf(driver.ErrInvalid, "'data-file' is required for this image: %w", err)
	}
	if err != nil {
		return err
	}
	im.data = data
	return nil
}

// openForWriting clears unknown autoclear bits, forgets bitmaps that are
// no longer true, and repairs an image that was not closed.
func (im *image) openForWriting(ctx context.Context) error {
	if err := im.alloc.init(ctx, im); err != nil {
		return err
	}
	if im.hdr.Autoclear&^ondisk.AutoclearKnown != 0 || im.bitmapsStale {
		im.hdrMu.Lock()
		im.hdr.Autoclear &= ondisk.AutoclearKnown
		if im.bitmapsStale {
			im.exts = im.withoutExtension(ondisk.ExtBitmaps)
		}
		err := im.writeHeader(ctx)
		im.hdrMu.Unlock()
		if err != nil {
			return driver.Errorf(driver.ErrInvalid, "could not update qcow2 header: %w", err)
		}
	}
	if im.hdr.Incompatible&ondisk.IncompatDirty == 0 || im.access.Check {
		return nil
	}
	checker, ok := any(im).(driver.Checker)
	if !ok {
		return driver.Errorf(driver.ErrNeedsRepair, "could not repair dirty image")
	}
	res, err := checker.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, im.env.Report, nil)
	if err != nil {
		return driver.Errorf(driver.ErrNeedsRepair, "could not repair dirty image: %w", err)
	}
	if res.CheckErrors != 0 || res.Corruptions != 0 {
		return driver.Errorf(driver.ErrNeedsRepair, "could not repair dirty image")
	}
	return im.setIncompatible(ctx, 0, ondisk.IncompatDirty)
}

// loadTables reads the L1 table and the refcount table.
func (im *image) loadTables(ctx context.Context) error {
	h := &im.hdr
	n := int64(h.L1Size)
	if err := im.reserve("Active L1 table", n*8); err != nil {
		return err
	}
	l1, err := im.readTableInto(ctx, im.l1.Entries, int64(h.L1TableOffset), n)
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "could not read L1 table: %w", err)
	}
	im.l1 = clustertable.NewRoot(l1, int64(h.L1TableOffset), binary.BigEndian)
	im.cache.Reset()
	return nil
}

// readTable reads n big-endian 64-bit entries at off. What is beyond the end
// of the file is zero, as in QEMU: a table may end in a hole.
func (im *image) readTable(ctx context.Context, off, n int64) ([]uint64, error) {
	return im.readTableInto(ctx, nil, off, n)
}

// readTableInto is readTable that uses the room of into if it is enough.
func (im *image) readTableInto(ctx context.Context, into []uint64, off, n int64) ([]uint64, error) {
	if end := off + n*8; n > 0 && !im.access.Check && off >= im.alignUp(im.file.Size()) {
		return nil, driver.Errorf(driver.ErrCorrupt, "table at %d to %d lies beyond the end of the file (%d bytes)", off, end, im.file.Size())
	}
	table := into
	if int64(cap(table)) < n {
		table = make([]uint64, n)
	} else {
		table = table[:n]
		clear(table)
	}
	buf := make([]byte, min(n*8, 1<<20))
	for i := int64(0); i < n; {
		p := buf[:min(int64(len(buf)), (n-i)*8)]
		if err := tableio.ReadPadded(ctx, im.file, p, off+i*8); err != nil {
			return nil, err
		}
		for j := 0; j < len(p); j += 8 {
			// Pages of the room that are never written to take no memory: an
			// empty table of 32 MiB takes none.
			if entry := be64(p[j:]); entry != 0 {
				table[i] = entry
			}
			i++
		}
	}
	return table, nil
}

// invalidate drops everything that was read from the file and reads it again.
// The caller has flushed or does not care for what was not written, holds
// flushMu, and no request is under way. Repair uses it.
func (im *image) invalidate(ctx context.Context) error {
	im.hdrMu.Lock()
	err := im.loadHeader(ctx)
	im.hdrMu.Unlock()
	if err != nil {
		return err
	}
	im.meta.Lock()
	im.env.Budget.Release(im.budgeted)
	im.budgeted = 0
	im.drops = nil
	err = im.loadTables(ctx)
	im.meta.Unlock()
	if err != nil || !im.writable {
		return err
	}
	return im.alloc.init(ctx, im)
}

// hasBacking says whether what is not allocated may show a backing file.
func (im *image) hasBacking() bool { return im.backing != "" || im.backingGiven }
