package bitmaps

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// maxBitmapWrite is how much of a bitmap's data is written at once.
const maxBitmapWrite = 4 << 20

// Store writes the bitmaps that changed. Nothing changes the disk any more.
// The order on disk: data, tables and directory in new clusters, with everything
// that waited to be written; barrier; the header names the directory; barrier. What
// is no longer used is handed over for being freed.
//
// An error leaves on disk what was there before: bitmaps that are in use.
func (s *Set) Store(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.host.Version() < 3 || s.host.Refused() {
		return nil // the flag that marks bitmaps as consistent cannot be set
	}
	whole := s.dirty
	var flags []*bitmap
	for _, b := range s.list {
		if b.inconsistent {
			continue
		}
		if b.size != s.host.DiskSize() {
			return driver.Errorf(driver.ErrInvalid, "bitmap '%s' is not of the size of the disk", b.name)
		}
		if s.mustStore(b) {
			whole = true
		} else if b.flags != b.wantFlags() {
			flags = append(flags, b)
		}
	}
	if !whole {
		return s.writeFlags(ctx, flags, (*bitmap).wantFlags)
	}
	st := &bitmapStore{set: s}
	err := st.prepare(ctx)
	if err == nil {
		err = st.commit(ctx)
	}
	if err != nil {
		// If it is not known which header is on disk, it may name the new room.
		for _, r := range st.rooms {
			if !s.host.Refused() {
				s.host.Free(context.WithoutCancel(ctx), r)
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
func (s *Set) mustStore(b *bitmap) bool {
	bits := b.bits.Load()
	return !b.stored || b.fresh || bits != nil && (bits.anyChanged() ||
		b.tableLen != ondisk.BitmapTableSize(b.size, uint8(b.shift), s.host.ClusterBits()))
}

// bitmapStore is the storing of bitmaps under way.
type bitmapStore struct {
	set    *Set
	rooms  []Range // allocated
	drops  []Range // no longer used once the header is written
	tables map[*bitmap]newTable
	dir    Range // of the new directory, without padding
	at     map[*bitmap]int64
}

type newTable struct {
	off     int64
	entries []uint64
}

// room allocates n clusters, or fewer if they need not be in a row.
func (st *bitmapStore) room(ctx context.Context, n, least int64) (Range, error) {
	r, err := st.set.host.Allocate(ctx, n, least)
	if err != nil {
		return Range{}, err
	}
	st.rooms = append(st.rooms, r)
	return r, nil
}

// prepare writes everything that the new directory will need, and it.
func (st *bitmapStore) prepare(ctx context.Context) error {
	s := st.set
	st.tables, st.at = map[*bitmap]newTable{}, map[*bitmap]int64{}
	for _, b := range s.list {
		if !b.inconsistent && s.mustStore(b) {
			if err := st.storeBitmap(ctx, b); err != nil {
				return driver.Errorf(nil, "failed to write bitmap '%s' to file: %w", b.name, err)
			}
		}
	}
	for _, b := range s.gone {
		st.dropBitmap(ctx, b)
	}
	if x := s.host.Extension(); x.Count > 0 {
		st.drop(int64(x.DirectoryOffset), int64(x.DirectorySize))
	}
	var dir []byte
	for _, b := range s.list {
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
	clusters := s.clusters(int64(len(dir)))
	r, err := st.room(ctx, clusters, clusters)
	if err != nil {
		return err
	}
	st.dir = Range{Off: r.Off, End: r.Off + int64(len(dir))}
	return s.write(ctx, dir, r)
}

// storeBitmap writes the data and the table of a bitmap to new clusters, as far as
// they changed.
func (st *bitmapStore) storeBitmap(ctx context.Context, b *bitmap) error {
	s, bits := st.set, b.bits.Load()
	n := ondisk.BitmapTableSize(b.size, uint8(b.shift), s.host.ClusterBits())
	t := newTable{entries: make([]uint64, n)}
	copy(t.entries, b.table)
	w := dataWriter{st: st, table: t.entries}
	per := s.clusterSize() * 8
	buf := make([]byte, s.clusterSize())
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
	clusters := s.clusters(n * 8)
	r, err := st.room(ctx, clusters, clusters)
	if err != nil {
		return err
	}
	t.off = r.Off
	if err := s.write(ctx, tableio.EncodeWords(t.entries), r); err != nil {
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
	s := w.st.set
	for len(w.index) > 0 {
		r, err := w.st.room(ctx, int64(len(w.index)), 1)
		if err != nil {
			return err
		}
		n := r.End - r.Off
		if _, err := s.host.File().WriteAt(ctx, w.data[:n], r.Off); err != nil {
			return err
		}
		for off := r.Off; off < r.End; off += s.clusterSize() {
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
		st.drops = append(st.drops, Range{Off: off, End: off + tableio.AlignUp(n, st.set.clusterSize())})
	}
}

func (st *bitmapStore) dropData(e uint64) {
	if off := int64(e & ondisk.OffsetMask); off != 0 {
		st.drop(off, st.set.clusterSize())
	}
}

// dropBitmap gives up what a removed bitmap has in the file. The clusters of a
// bitmap that cannot be read stay for a repair of the image.
func (st *bitmapStore) dropBitmap(ctx context.Context, b *bitmap) {
	if b.table == nil && st.set.loadBitmapTable(ctx, b) != nil {
		return
	}
	for _, e := range b.table {
		st.dropData(e)
	}
	st.drop(b.tableOff, b.tableLen*8)
}

// commit makes everything durable and lets the header name the directory.
func (st *bitmapStore) commit(ctx context.Context) error {
	x := ondisk.BitmapsExtension{}
	if st.dir.End > st.dir.Off {
		x = ondisk.BitmapsExtension{Count: uint32(len(st.set.list)), DirectorySize: uint64(st.dir.End - st.dir.Off), DirectoryOffset: uint64(st.dir.Off)}
	}
	return st.set.host.Commit(ctx, x)
}

// write writes p at the start of r, and no more: what is behind it in the last
// cluster means nothing, and would take room on disk.
func (s *Set) write(ctx context.Context, p []byte, r Range) error {
	if len(p) == 0 {
		return nil
	}
	_, err := s.host.File().WriteAt(ctx, p, r.Off)
	return err
}

// finish takes over what was stored. mu is held alone.
func (st *bitmapStore) finish() {
	s := st.set
	for _, b := range s.list {
		if t, ok := st.tables[b]; ok {
			b.table, b.tableOff, b.tableLen = t.entries, t.off, int64(len(t.entries))
			b.bits.Load().untouch()
		}
		b.flags, b.at, b.stored, b.fresh = b.wantFlags(), st.at[b], true, false
	}
	s.gone, s.dirty = nil, false
	s.host.FreeLater(st.drops)
}
