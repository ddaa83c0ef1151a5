package block

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
)

// bounceMax is the largest request that goes through one buffer where its edges are
// not aligned; of larger ones only the edges do.
const bounceMax = 1 << 20

// The functions below are the only callers of a storage node's ReadAt and WriteAt.
// They keep what its Limits say: offsets and lengths are multiples of
// RequestAlignment (the end of the object counts as aligned), and no request is
// larger than MaxTransfer. Units that a write covers in part are read, changed and
// written whole; until that is done, other writes to them wait.

// unit is the alignment of requests to the node, at least 1.
func (img *Image) unit() int64 { return max(img.limits.RequestAlignment, 1) }

// aligned says whether a request can be handed to the node as it is.
func (img *Image) aligned(off, n int64) bool {
	a := img.unit()
	return a == 1 || off%a == 0 && (n%a == 0 || off+n == img.node.Size())
}

// around widens a range to whole units, but not across the end of the object
// except where the range itself reaches beyond it.
func (img *Image) around(off, n int64) (start, end int64) {
	a := img.unit()
	start = off / a * a
	end = (off + n + a - 1) / a * a
	if size := img.node.Size(); end > size && off+n <= size {
		end = size
	}
	return start, end
}

// readStorage reads from the storage node. Like driver.Storage.ReadAt it returns
// io.EOF where the object ends.
func (img *Image) readStorage(ctx context.Context, p []byte, off int64) (int, error) {
	n := int64(len(p))
	if img.aligned(off, n) {
		return img.readPieces(ctx, p, off)
	}
	start, end := img.around(off, n)
	if end-start <= bounceMax {
		return img.readBounced(ctx, p, off, start, end)
	}
	a := img.unit()
	done := int64(0)
	if start != off {
		head := start + a - off
		m, err := img.readBounced(ctx, p[:head], off, start, start+a)
		if err != nil {
			return m, err
		}
		done = head
	}
	whole := (n - done) / a * a
	m, err := img.readPieces(ctx, p[done:done+whole], off+done)
	if done += int64(m); err != nil || done == n {
		return int(done), err
	}
	m, err = img.readBounced(ctx, p[done:], off+done, off+done, end)
	return int(done) + m, err
}

// readBounced reads p at off through a buffer for the units from start to end.
func (img *Image) readBounced(ctx context.Context, p []byte, off, start, end int64) (int, error) {
	buf := bufpool.Get(int(end - start))
	defer bufpool.Put(buf)
	m, err := img.readPieces(ctx, buf, start)
	if err != nil && err != io.EOF {
		return 0, err
	}
	got := 0
	if in := int(off - start); m > in {
		got = copy(p, buf[in:m])
	}
	if got < len(p) {
		return got, io.EOF
	}
	return got, nil
}

// readPieces reads an aligned range in pieces that the node takes.
func (img *Image) readPieces(ctx context.Context, p []byte, off int64) (int, error) {
	img.lock()
	defer img.unlock()
	most := int(piece(int64(len(p)), img.limits.MaxTransfer, img.unit()))
	if len(p) <= most {
		return img.storage.ReadAt(ctx, p, off)
	}
	for done := 0; done < len(p); {
		q := p[done:]
		m, err := img.storage.ReadAt(ctx, q[:min(most, len(q))], off+int64(done))
		if done += m; err != nil {
			return done, err
		}
	}
	return len(p), nil
}

// writeStorage writes to the storage node.
func (img *Image) writeStorage(ctx context.Context, p []byte, off int64) (int, error) {
	n := int64(len(p))
	if img.unit() == 1 || n == 0 {
		return img.writePieces(ctx, p, off)
	}
	start, end := img.around(off, n)
	whole := img.aligned(off, n)
	mode := rangelock.Exclusive
	if whole {
		mode = rangelock.Shared
	}
	held, err := img.ranges.Lock(ctx, start, end-start, mode)
	if err != nil {
		return 0, err
	}
	defer held.Unlock()
	if whole {
		return img.writePieces(ctx, p, off)
	}
	if end-start <= bounceMax {
		return img.writeBounced(ctx, p, off, start, end)
	}
	a := img.unit()
	done := int64(0)
	if start != off {
		done = start + a - off
		if m, err := img.writeBounced(ctx, p[:done], off, start, start+a); err != nil {
			return m, err
		}
	}
	mid := (n - done) / a * a
	m, err := img.writePieces(ctx, p[done:done+mid], off+done)
	if done += int64(m); err != nil || done == n {
		return int(done), err
	}
	m, err = img.writeBounced(ctx, p[done:], off+done, off+done, end)
	return int(done) + m, err
}

// writeBounced writes p at off as part of the units from start to end, of which it
// reads those that p covers in part. The range is held.
func (img *Image) writeBounced(ctx context.Context, p []byte, off, start, end int64) (int, error) {
	buf := bufpool.Get(int(end - start))
	defer bufpool.Put(buf)
	a := img.unit()
	head, tail := off > start, off+int64(len(p)) < end
	last := (end - 1) / a * a
	one := head && last == start // both edges are in one unit
	if head {
		img.raise("pwritev_rmw_head")
		if one && tail {
			img.raise("pwritev_rmw_tail")
		}
		if err := img.readUnit(ctx, buf[:min(a, end-start)], start); err != nil {
			return 0, err
		}
		img.raise("pwritev_rmw_after_head")
	}
	if tail && !one {
		img.raise("pwritev_rmw_tail")
		if err := img.readUnit(ctx, buf[last-start:], last); err != nil {
			return 0, err
		}
	}
	if tail {
		img.raise("pwritev_rmw_after_tail")
	}
	copy(buf[off-start:], p)
	if _, err := img.writePieces(ctx, buf, start); err != nil {
		return 0, err
	}
	return len(p), nil
}

// raise tells a filter that injects errors what is done to it.
func (img *Image) raise(event string) {
	if s, ok := img.node.(driver.EventSink); ok {
		s.RaiseEvent(event)
	}
}

// readUnit reads a unit, with zeroes for what is beyond the end of the object.
func (img *Image) readUnit(ctx context.Context, p []byte, off int64) error {
	m, err := img.readPieces(ctx, p, off)
	if err == io.EOF {
		clear(p[m:])
		return nil
	}
	return err
}

// writePieces writes an aligned range in pieces that the node takes.
func (img *Image) writePieces(ctx context.Context, p []byte, off int64) (int, error) {
	img.lock()
	defer img.unlock()
	most := int(piece(int64(len(p)), img.limits.MaxTransfer, img.unit()))
	if len(p) <= most {
		return img.storage.WriteAt(ctx, p, off)
	}
	for done := 0; done < len(p); {
		q := p[done:]
		m, err := img.storage.WriteAt(ctx, q[:min(most, len(q))], off+int64(done))
		if done += m; err != nil {
			return done, err
		}
	}
	return len(p), nil
}
