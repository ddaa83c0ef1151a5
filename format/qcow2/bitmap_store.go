package qcow2

import (
	"context"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// maxBitmapWrite is how much of a bitmap's data is written at once.
const maxBitmapWrite = 4 << 20

// storeBitmaps writes the bitmaps that changed. Nothing changes the disk any more.
// The order on disk: data, tables and directory in new clusters, with everything
// that waited to be written; barrier; the header names the directory; barrier. What
// is no longer used is handed over for being freed.
//
// An error leaves on disk what was there before: bitmaps that are in use.
func (im *image) storeBitmaps(ctx context.Context) error {
	s := &im.bm
	s.mu.Lock()
	defer s.mu.Unlock()
	if im.version < 3 || im.refused.Load() {
		return nil // nobody can be told that the bitmaps are true
	}
	whole := s.dirty
	var flags []*bitmap
	for _, b := range s.list {
		if b.inconsistent {
			continue
		}
		if b.size != im.size.Load() {
			return driver.Errorf(driver.ErrInvalid, "Bitmap '%s' is not of the size of the disk", b.name)
		}
		if im.mustStore(b) {
			whole = true
		} else if b.flags != b.wantFlags() {
			flags = append(flags, b)
		}
	}
	if !whole {
		return im.writeFlags(ctx, flags, (*bitmap).wantFlags)
	}
	st := &bitmapStore{im: im}
	err := st.prepare(ctx)
	if err == nil {
		err = st.commit(ctx)
	}
	if err != nil {
		// If it is not known which header is on disk, it may name the new room.
		for _, r := range st.rooms {
			if !im.refused.Load() {
				im.freeNow(context.WithoutCancel(ctx), r.off, r.end-r.off)
			}
		}
		return err
	}
	st.finish()
	return nil
}

// wantFlags are the flags of a bitmap that is stored properly.
func (b *bitmap) wantFlags() uint32 {
	if b.inconsistent {
		return b.flags
	}
	f := b.compat
	if b.enabled {
		f |= ondisk.BitmapAuto
	}
	return f
}

// mustStore says whether the contents of a bitmap on disk are not what they
// should be.
func (im *image) mustStore(b *bitmap) bool {
	bits := b.bits.Load()
	return !b.stored || b.fresh || bits != nil && (bits.anyChanged() ||
		b.tableLen != ondisk.BitmapTableSize(b.size, uint8(b.shift), im.clusterBits))
}

// bitmapStore is the storing of bitmaps under way.
type bitmapStore struct {
	im     *image
	rooms  []span // allocated
	drops  []span // no longer used once the header is written
	tables map[*bitmap]newTable
	dir    span // of the new directory, without padding
	at     map[*bitmap]int64
}

type newTable struct {
	off     int64
	entries []uint64
}

// room allocates n clusters, or fewer if they need not lie in a row.
func (st *bitmapStore) room(ctx context.Context, n, least int64) (span, error) {
	host, got, _, err := st.im.allocRun(ctx, n, least)
	if err != nil {
		return span{}, err
	}
	r := span{off: host, end: host + got<<st.im.clusterBits}
	st.rooms = append(st.rooms, r)
	return r, nil
}

// prepare writes everything that the new directory will need, and it.
func (st *bitmapStore) prepare(ctx context.Context) error {
	im := st.im
	st.tables, st.at = map[*bitmap]newTable{}, map[*bitmap]int64{}
	for _, b := range im.bm.list {
		if !b.inconsistent && im.mustStore(b) {
			if err := st.storeBitmap(ctx, b); err != nil {
				return fmt.Errorf("Failed to write bitmap '%s' to file: %w", b.name, err)
			}
		}
	}
	for _, b := range im.bm.gone {
		st.dropBitmap(ctx, b)
	}
	if x := im.bitmapsExt; x.Count > 0 {
		st.drop(int64(x.DirectoryOffset), int64(x.DirectorySize))
	}
	var dir []byte
	for _, b := range im.bm.list {
		e := ondisk.Bitmap{TableOffset: uint64(b.tableOff), TableSize: uint32(b.tableLen), Flags: b.wantFlags(),
			Type: ondisk.BitmapDirtyTracking, GranularityBits: uint8(b.shift), Extra: b.extra, Name: b.name}
		if t, ok := st.tables[b]; ok {
			e.TableOffset, e.TableSize = uint64(t.off), uint32(len(t.entries))
		}
		st.at[b] = int64(len(dir)) + ondisk.BitmapFlagsOffset
		dir = e.Append(dir)
	}
	if len(dir) == 0 {
		return nil
	}
	clusters := im.clusters(int64(len(dir)))
	r, err := st.room(ctx, clusters, clusters)
	if err != nil {
		return err
	}
	st.dir = span{off: r.off, end: r.off + int64(len(dir))}
	return im.writeRoom(ctx, dir, r)
}

// storeBitmap writes the data and the table of a bitmap to new clusters, as far as
// they changed.
func (st *bitmapStore) storeBitmap(ctx context.Context, b *bitmap) error {
	im, bits := st.im, b.bits.Load()
	n := ondisk.BitmapTableSize(b.size, uint8(b.shift), im.clusterBits)
	t := newTable{entries: make([]uint64, n)}
	copy(t.entries, b.table)
	w := dataWriter{st: st, table: t.entries}
	per := im.clusterSize * 8
	buf := make([]byte, im.clusterSize)
	for i := range n {
		if !b.fresh && b.stored && !bits.changed(i*per, (i+1)*per) {
			continue
		}
		t.entries[i] = 0
		if bits.allUnset(i*per, (i+1)*per) {
			continue
		}
		zero, ones := bits.export(buf, i*per)
		switch {
		case zero:
		case ones:
			t.entries[i] = ondisk.BitmapTableAllOnes
		default:
			if err := w.add(ctx, i, buf); err != nil {
				return err
			}
		}
	}
	if err := w.flush(ctx); err != nil {
		return err
	}
	clusters := im.clusters(n * 8)
	r, err := st.room(ctx, clusters, clusters)
	if err != nil {
		return err
	}
	t.off = r.off
	if err := im.writeRoom(ctx, encodeEntries(t.entries), r); err != nil {
		return err
	}
	for i, e := range b.table {
		if i >= len(t.entries) || t.entries[i] != e {
			st.dropData(e)
		}
	}
	if b.stored {
		st.drop(b.tableOff, b.tableLen*8)
	}
	st.tables[b] = t
	return nil
}

// dataWriter writes clusters of bits in large pieces.
type dataWriter struct {
	st    *bitmapStore
	table []uint64
	index []int64
	data  []byte
}

func (w *dataWriter) add(ctx context.Context, i int64, p []byte) error {
	w.index, w.data = append(w.index, i), append(w.data, p...)
	if len(w.data) < maxBitmapWrite {
		return nil
	}
	return w.flush(ctx)
}

func (w *dataWriter) flush(ctx context.Context) error {
	im := w.st.im
	for len(w.index) > 0 {
		r, err := w.st.room(ctx, int64(len(w.index)), 1)
		if err != nil {
			return err
		}
		n := r.end - r.off
		if _, err := im.file.WriteAt(ctx, w.data[:n], r.off); err != nil {
			return err
		}
		for off := r.off; off < r.end; off += im.clusterSize {
			w.table[w.index[0]] = uint64(off)
			w.index = w.index[1:]
		}
		w.data = w.data[n:]
	}
	w.data = nil
	return nil
}

func (st *bitmapStore) drop(off, n int64) {
	if n > 0 {
		st.drops = append(st.drops, span{off: off, end: off + st.im.alignUp(n)})
	}
}

func (st *bitmapStore) dropData(e uint64) {
	if off := int64(e & ondisk.OffsetMask); off != 0 {
		st.drop(off, st.im.clusterSize)
	}
}

// dropBitmap gives up what a removed bitmap has in the file. The clusters of a
// bitmap that cannot be read stay: whoever repairs the image finds them.
func (st *bitmapStore) dropBitmap(ctx context.Context, b *bitmap) {
	if b.table == nil && st.im.loadBitmapTable(ctx, b) != nil {
		return
	}
	for _, e := range b.table {
		st.dropData(e)
	}
	st.drop(b.tableOff, b.tableLen*8)
}

// commit makes everything durable and lets the header name the directory.
func (st *bitmapStore) commit(ctx context.Context) error {
	im := st.im
	im.flushMu.Lock()
	err := im.settle(ctx)
	im.flushMu.Unlock()
	if err != nil {
		return err
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	x := ondisk.BitmapsExtension{}
	if st.dir.end > st.dir.off {
		x = ondisk.BitmapsExtension{Count: uint32(len(im.bm.list)), DirectorySize: uint64(st.dir.end - st.dir.off), DirectoryOffset: uint64(st.dir.off)}
	}
	return im.writeBitmapsExtension(ctx, x)
}

// writeBitmapsExtension writes the header with another bitmaps extension, or
// without one if x is zero. hdrMu is held.
func (im *image) writeBitmapsExtension(ctx context.Context, x ondisk.BitmapsExtension) error {
	hdr, exts, old := im.hdr, im.exts, im.bitmapsExt
	im.exts = im.withoutExtension(ondisk.ExtBitmaps)
	im.hdr.Autoclear &^= ondisk.AutoclearBitmaps
	if x.Count > 0 {
		im.hdr.Autoclear |= ondisk.AutoclearBitmaps
		// Before the feature names, which fill the first sector: what lies in it is
		// written at once.
		at := slices.IndexFunc(im.exts, func(e ondisk.Extension) bool { return e.Type == ondisk.ExtFeatureNames })
		if at < 0 {
			at = len(im.exts)
		}
		im.exts = slices.Insert(im.exts, at, ondisk.Extension{Type: ondisk.ExtBitmaps, Data: x.Append(nil)})
	}
	im.bitmapsExt = x
	if err := im.writeHeader(ctx); err != nil {
		im.hdr, im.exts, im.bitmapsExt = hdr, exts, old
		return fmt.Errorf("Failed to update bitmap extension: %w", err)
	}
	return nil
}

// finish takes over what was stored. bm.mu is held alone.
func (st *bitmapStore) finish() {
	im := st.im
	for _, b := range im.bm.list {
		if t, ok := st.tables[b]; ok {
			b.table, b.tableOff, b.tableLen = t.entries, t.off, int64(len(t.entries))
			b.bits.Load().untouch()
		}
		b.flags, b.at, b.stored, b.fresh = b.wantFlags(), st.at[b], true, false
	}
	im.bm.gone, im.bm.dirty = nil, false
	a := &im.alloc
	a.mu.Lock()
	defer a.mu.Unlock()
	a.holdSpans()
	for _, d := range st.drops {
		a.ready = append(a.ready, drop{off: d.off, n: d.end - d.off, how: discardOther})
		a.readyLen.Add(d.end - d.off)
	}
}
