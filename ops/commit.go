package ops

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// CommitJob says what to commit where.
type CommitJob struct {
	// Top is open for writing, unless Keep is set.
	Top *block.Image
	// Base is a layer of Top's backing chain that is open for writing and
	// resizing. The data of the layers above it is written to it.
	Base *block.Image
	// Keep leaves Top as it is. Without it, Top is emptied in the end if its
	// format can be; Base must then be its backing file.
	Keep      bool
	RateLimit int64 // bytes per second, 0 for none
	Workers   int   // 0 means a default
	Progress  ProgressFunc
}

// Commit writes the contents of the layers above a base into the base, which is
// grown if Top is larger. Stopped at any time, it loses nothing: part of the
// contents may be in the base already, and Top is emptied only after all are
// there durably. Readers of the base itself, and of other images that are backed
// by it, see the changes.
func Commit(ctx context.Context, job CommitJob) error {
	c := &committer{job: job, limit: newRateLimit(job.RateLimit), early: writeback{img: job.Base}}
	size := job.Top.Size()
	if size > job.Base.Size() {
		if err := job.Base.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
			return err
		}
	}
	bitmaps, _, err := job.Base.Bitmaps().List(ctx)
	if err != nil {
		return err
	}
	c.whole = slices.ContainsFunc(bitmaps, func(b driver.BitmapInfo) bool { return b.Enabled && !b.Inconsistent })
	total := int64(0) // bytes to copy; the map is read first, for progress only
	if job.Progress != nil {
		count := func(p part) error {
			total += p.copied()
			return nil
		}
		if err := c.parts(ctx, size, count); err != nil {
			return err
		}
	}
	c.meter = newMeter(job.Progress, "commit", total)
	if err := c.run(ctx, size); err != nil {
		return err
	}
	if err := job.Base.Flush(ctx); err != nil {
		return err
	}
	if e, ok := job.Top.Tree().Node().(driver.Emptier); ok && !job.Keep {
		err := e.MakeEmpty(ctx)
		if err == nil {
			err = job.Top.Flush(ctx)
		}
		if err != nil && !errors.Is(err, driver.ErrUnsupported) {
			return &NotEmptiedError{err}
		}
	}
	c.meter.finish()
	return nil
}

// NotEmptiedError says that everything was committed and Top could not be emptied.
type NotEmptiedError struct{ Err error }

func (e *NotEmptiedError) Error() string { return driver.Text(e) }
func (e *NotEmptiedError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *NotEmptiedError) Template() (string, []any) {
	return "the committed image could not be emptied: %v", []any{e.Err}
}

type committer struct {
	job   CommitJob
	limit *rateLimit
	meter *meter
	early writeback
	// whole: zeroes are written also where the base reads as zeroes, for its dirty
	// bitmaps record what was committed.
	whole bool
	same  sameData
}

// part is a range of the disk of one kind.
type part struct {
	off, n int64
	kind   kind
	seq    uint64 // of the parts that are handed out, from 0
	// skipped is how many bytes before off belong to the part and need no work.
	skipped int64
	// holes are ranges of data in holes of the file: clusters that a guest
	// has written in part have them. They are sorted.
	holes []hole
}

// copied is how many bytes of progress the part counts for.
func (p *part) copied() int64 {
	if p.kind == kindSkip {
		return 0
	}
	return p.n
}

// hole is a range of the disk.
type hole struct{ off, end int64 }

// maxPart bounds ranges that are not read, so that progress and cancelling work.
const maxPart = 1 << 30

func (c *committer) run(ctx context.Context, size int64) error {
	plan := func(ctx context.Context, out func(part) error) error { return c.parts(ctx, size, out) }
	return runParts(ctx, c.job.Workers, plan, func(ctx context.Context, p part) error {
		if err := c.do(ctx, p); err != nil {
			return err
		}
		if n := p.copied(); n > 0 {
			c.meter.add(n, true)
		}
		return nil
	}, c.early.wait)
}

// parts hands out the ranges that the layers above the base hold. Neighbours with data
// go together, up to the end of a chunk. What comes before a place of which the map
// cannot be read is handed out, too.
func (c *committer) parts(ctx context.Context, size int64, each func(part) error) error {
	var p part
	var known lastData
	emit := func() error {
		if p.n == 0 {
			return nil
		}
		defer func() { p = part{} }()
		return each(p)
	}
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		st, ok := known.at(off)
		if !ok {
			var err error
			if st, err = c.job.Top.Status(ctx, off, min(size-off, maxPart), c.job.Base); err != nil {
				return cmp.Or(emit(), err)
			}
			known.note(off, st)
		}
		k, n := kindSkip, st.Length
		switch {
		case st.Zero && !st.Data && st.Allocated:
			k = kindZero
		case st.Zero && !st.Allocated:
			// A layer above the base ends here: what the base holds there was
			// never seen.
			k = kindZero
		case st.Data:
			k = kindData
			n = min(n, (off/chunkSize+1)*chunkSize-off)
		}
		if p.n > 0 && (p.kind != k || k != kindData || off%chunkSize == 0) {
			if err := emit(); err != nil {
				return err
			}
		}
		if p.n == 0 {
			p = part{off: off, kind: k}
		}
		if k == kindData && st.Zero {
			p.holes = append(p.holes, hole{off, off + n})
		}
		p.n += n
		off += n
	}
	return emit()
}

func (c *committer) do(ctx context.Context, p part) error {
	base := c.job.Base
	switch p.kind {
	case kindSkip:
		return nil
	case kindZero:
		zero, err := base.ReadsZero(ctx, p.off, p.n)
		if err != nil || zero {
			return err
		}
		return base.WriteZeroes(ctx, p.off, p.n, driver.ZeroMayUnmap)
	}
	if err := c.limit.wait(ctx, p.n); err != nil {
		return err
	}
	buf := bufpool.Get(int(p.n))
	defer bufpool.Put(buf)
	if err := c.read(ctx, buf, p); err != nil {
		return err
	}
	return c.write(ctx, buf, p.off)
}

// read reads a part from the layers above the base, except the holes.
func (c *committer) read(ctx context.Context, buf []byte, p part) error {
	at := p.off
	for _, h := range append(p.holes, hole{p.off + p.n, p.off + p.n}) {
		if h.off > at {
			if _, err := c.job.Top.ReadAt(ctx, buf[at-p.off:h.off-p.off], at); err != nil {
				return err
			}
		}
		clear(buf[h.off-p.off : h.end-p.off])
		at = h.end
	}
	return nil
}
