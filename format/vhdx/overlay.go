package vhdx

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// maxOverlayWork bounds what laying a log over the file may cost: ranges of zeroes times
// sectors.
const maxOverlayWork = 1 << 28

// overlay is a file with a log laid over it, for reading. It remembers where sectors lie in
// the log, not their contents.
type overlay struct {
	driver.Storage
	log     *replayed
	zeroes  []driver.Range
	sectors map[int64]*change // by offset in the file; newer than all zeroes
}

func newOverlay(file driver.Storage, log *replayed) (*overlay, error) {
	o := &overlay{Storage: file, log: log, sectors: map[int64]*change{}}
	work := 0
	for _, e := range log.entries {
		for i := range e.changes {
			c := &e.changes[i]
			if c.zeroes == 0 {
				o.sectors[c.off] = c
				continue
			}
			if work += len(o.sectors); work > maxOverlayWork {
				return nil, driver.Errorf(driver.ErrBudget, "the log is too large to be replayed in memory: open the image for writing")
			}
			for off := range o.sectors {
				if off >= c.off && off < c.off+c.zeroes {
					delete(o.sectors, off)
				}
			}
			o.zeroes = append(o.zeroes, driver.Range{Offset: c.off, Length: c.zeroes})
		}
	}
	return o, nil
}

// Size implements driver.Node.
func (o *overlay) Size() int64 { return o.log.size }

// ReadAt implements driver.Storage.
func (o *overlay) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	n := max(0, min(int64(len(p)), o.Size()-off))
	p, short := p[:n], n < int64(len(p))
	if err := readAt(ctx, o.Storage, p, off); err != nil {
		return 0, err
	}
	for _, z := range o.zeroes {
		if from, to := max(z.Offset, off), min(z.Offset+z.Length, off+n); from < to {
			clear(p[from-off : to-off])
		}
	}
	for at := off &^ (logSector - 1); at < off+n; at += logSector {
		c := o.sectors[at]
		if c == nil {
			continue
		}
		b, err := c.sector(ctx, &o.log.ring)
		if err != nil {
			return 0, err
		}
		from := max(at, off)
		copy(p[from-off:], b[from-at:])
	}
	if short {
		return int(n), io.EOF
	}
	return int(n), nil
}

// touches says whether the log has anything for a range.
func (o *overlay) touches(off, n int64) bool {
	for _, z := range o.zeroes {
		if z.Offset < off+n && off < z.Offset+z.Length {
			return true
		}
	}
	if n/logSector < int64(len(o.sectors)) {
		for at := off &^ (logSector - 1); at < off+n; at += logSector {
			if o.sectors[at] != nil {
				return true
			}
		}
		return false
	}
	for at := range o.sectors {
		if at < off+n && off < at+logSector {
			return true
		}
	}
	return false
}

// Map implements driver.Storage: what the log has is data.
func (o *overlay) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	if off >= o.Size() {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	n = min(n, o.Size()-off)
	data := driver.Extent{Kind: driver.ExtentData, Length: n, HostOffset: off, HasOffset: true}
	if off >= o.Storage.Size() || o.touches(off, n) {
		return data, nil
	}
	return o.Storage.Map(ctx, off, n)
}

// WriteAt implements driver.Storage: it is for reading.
func (o *overlay) WriteAt(context.Context, []byte, int64) (int, error) {
	return 0, driver.Errorf(driver.ErrReadOnly, "image is read-only")
}
