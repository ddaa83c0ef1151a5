package vhdx

import (
	"bytes"
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Resize implements driver.Resizer. The size takes effect with one entry of the log; a table
// that is too long for the disk does no harm.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return unsupported("unsupported preallocation mode '%s'", opt.Prealloc)
	}
	if size > maxDisk || size < 0 {
		return invalid("image size too large; max of 64TB")
	}
	m := im.meta
	m.size = roundUp(size, m.logical)
	old := im.Size()
	if m.size < old {
		if end := min(roundUp(m.size, m.block), old); end > m.size {
			if err := im.ZeroData(ctx, m.size, end-m.size); err != nil {
				return err
			}
		}
		if err := im.Truncate(ctx, m.size); err != nil {
			return err
		}
	}
	if err := im.Prepare(ctx); err != nil {
		return err
	}
	if m.size > old && old > 0 {
		if err := im.coverBlock(ctx, (old-1)/m.block); err != nil {
			return err
		}
	}
	need := m.entries() * 8
	if need > im.bat.length {
		if err := im.moveTable(ctx, need); err != nil {
			return err
		}
	}
	if now := (&metadata{block: m.block, logical: m.logical, diff: m.diff, size: old}); need > now.entries()*8 {
		if err := im.clearEntries(ctx, now.entries()*8, need); err != nil {
			return err
		}
	}
	im.mu.Lock()
	err := im.logWrite(ctx, m.sizeAt, le.AppendUint64(nil, uint64(m.size)))
	if err == nil {
		err = im.clearLog(ctx)
	}
	im.mu.Unlock()
	if err != nil {
		return err
	}
	if err := im.Resized(im.layout(&m), m.size); err != nil || !m.fixed {
		return err
	}
	return im.fill(ctx, roundUp(old, m.block))
}

// coverBlock makes the file reach to the end of a block. In files of QEMU that are fixed, the last one ends
// where the disk does.
func (im *image) coverBlock(ctx context.Context, u int64) error {
	e, err := im.Entry(ctx, u)
	if err != nil || e.State != blockmap.Data {
		return err
	}
	end := e.Host + im.meta.block
	if end <= im.raw.Size() {
		return nil
	}
	if _, err := im.raw.WriteAt(ctx, []byte{0}, end-1); err != nil {
		return err
	}
	return im.raw.Flush(ctx)
}

// moveTable gives the table a region of n bytes at least, at the end of the file. Of the
// copies of the region table the first one counts as long as it is whole.
func (im *image) moveTable(ctx context.Context, n int64) error {
	if err := im.endLog(ctx); err != nil {
		return err
	}
	to := im.bat
	to.off, to.length = roundUp(max(im.raw.Size(), im.End()), mib), roundUp(n, mib)
	buf := make([]byte, mib)
	for at := int64(0); at < to.length; at += mib {
		clear(buf)
		if at < im.bat.length {
			if _, err := im.raw.ReadAt(ctx, buf, im.bat.off+at); err != nil && err != io.EOF {
				return err
			}
		}
		if _, err := im.raw.WriteAt(ctx, buf, to.off+at); err != nil {
			return err
		}
	}
	table, err := regionTable(ctx, im.raw)
	if err != nil {
		return err
	}
	for i := range int64(le.Uint32(table[8:])) {
		if e := table[regionHead+i*entryBytes:]; guid(e[:16]) == regionBAT {
			le.PutUint64(e[16:], uint64(to.off))
			le.PutUint32(e[24:], uint32(to.length))
		}
	}
	seal(table)
	for _, off := range []int64{lastRegions, firstRegions} {
		if err := im.raw.Flush(ctx); err != nil {
			return err
		}
		if _, err := im.raw.WriteAt(ctx, table, off); err != nil {
			return err
		}
	}
	if err := im.raw.Flush(ctx); err != nil {
		return err
	}
	for i, r := range im.reserved {
		if r.Offset == im.bat.off {
			reserved := append([]driver.Range(nil), im.reserved...)
			reserved[i] = driver.Range{Offset: to.off, Length: to.length}
			im.reserved = reserved
		}
	}
	im.bat = to
	im.table.Store(to.off)
	return nil
}

// clearEntries makes bytes from to to of the table zeroes, which nothing has used so far.
func (im *image) clearEntries(ctx context.Context, from, to int64) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	buf, zeroes := make([]byte, 64<<10), make([]byte, 64<<10)
	for from < to {
		b := buf[:min(int64(len(buf)), to-from)]
		if err := readAt(ctx, im.raw, b, im.bat.off+from); err != nil {
			return err
		}
		if !bytes.Equal(b, zeroes[:len(b)]) {
			if err := im.logWrite(ctx, im.bat.off+from, zeroes[:len(b)]); err != nil {
				return err
			}
		}
		from += int64(len(b))
	}
	return nil
}

// fill gives the blocks of a fixed disk room, from the one at off on.
func (im *image) fill(ctx context.Context, off int64) error {
	for off < im.Size() {
		t, err := im.Allocate(ctx, off, im.Size()-off)
		if err != nil {
			return err
		}
		if t.Pending != nil {
			if err := im.zeroRoom(ctx, &t); err != nil {
				t.Pending.Abort(ctx)
				return err
			}
			if err := t.Pending.Commit(ctx); err != nil {
				return err
			}
		}
		off += t.Length
	}
	return im.Flush(ctx)
}

// zeroRoom makes new room read as zeroes, and the file reach to its end.
func (im *image) zeroRoom(ctx context.Context, t *driver.WriteTarget) error {
	n := t.Length + t.Tail
	if r, ok := im.raw.(driver.Resizer); ok && t.ZeroFilled {
		if end := t.HostOffset + n; end > im.raw.Size() {
			return r.Resize(ctx, end, driver.ResizeOptions{})
		}
		return nil
	}
	z := change{off: t.HostOffset, zeroes: n}
	return z.apply(ctx, im.raw, nil)
}
