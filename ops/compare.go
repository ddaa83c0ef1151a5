package ops

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
)

// CompareOptions say how to compare.
type CompareOptions struct {
	// Strict: the sizes and the allocation must be equal, too.
	Strict   bool
	Progress ProgressFunc
}

// Difference says how two disks differ.
type Difference int

// The kinds of difference.
const (
	Same           Difference = iota
	DiffContent               // the bytes differ at Offset
	DiffAllocation            // strict: the block status differs at Offset
	DiffSize                  // strict: the sizes differ
)

// CompareResult is what Compare found first.
type CompareResult struct {
	Difference Difference
	Offset     int64 // of the first different sector (512 bytes)
	// SizeDiffers is also set where the disks are the same but for zeroes at the
	// end of the larger one.
	SizeDiffers bool
}

// CompareError says which of the two images could not be read, and where.
type CompareError struct {
	Image *block.Image
	// Offset is where the range that could not be read begins on the disk, in bytes.
	// An IOError in Err can have the offset in a file below.
	Offset int64
	Err    error
}

func (e *CompareError) Error() string { return driver.Text(e) }
func (e *CompareError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *CompareError) Template() (string, []any) { return "%v", []any{e.Err} }

// Compare compares the contents of two disks. Where one is larger, the rest of
// it must be zeroes. The first difference is found whatever the order of work; where a disk
// cannot be read before it, that is the result, a CompareError.
func Compare(ctx context.Context, a, b *block.Image, o CompareOptions) (CompareResult, error) {
	res := CompareResult{SizeDiffers: a.Size() != b.Size()}
	if o.Strict && res.SizeDiffers {
		res.Difference = DiffSize
		return res, nil
	}
	c := &comparer{a: a, b: b, strict: o.Strict, common: min(a.Size(), b.Size()), total: max(a.Size(), b.Size())}
	c.first.Store(math.MaxInt64)
	c.meter = newMeter(o.Progress, "compare", c.total)
	g, gctx := errgroup.WithContext(ctx)
	work := make(chan span, 4)
	g.Go(func() error {
		defer close(work)
		return c.failed(c.plan(gctx, work))
	})
	for range max(2, runtime.GOMAXPROCS(0)) {
		g.Go(func() error {
			for s := range work {
				if err := c.failed(c.compare(gctx, s)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return res, err
	}
	off := c.first.Load()
	if c.failure != nil && c.failure.Offset == off {
		return res, c.failure
	}
	if off != math.MaxInt64 {
		res.Offset = off
		res.Difference = c.kindAt(off)
		return res, nil
	}
	c.meter.finish()
	return res, nil
}

type comparer struct {
	a, b           *block.Image
	strict         bool
	common, total  int64
	knownA, knownB lastData     // of plan
	first          atomic.Int64 // the lowest difference or failure found
	mu             sync.Mutex
	failure        *CompareError // the one with the lowest offset
	allocAt        int64         // where plan found different block status, 0 with allocDiff unset
	allocDiff      bool
	ways           ways
	meter          *meter
	done           atomic.Int64
}

// span is a range to read: of both images, or of one that must be zero there.
type span struct {
	off, n int64
	only   *block.Image // nil: both
}

func (c *comparer) found(off int64) {
	for {
		old := c.first.Load()
		if off >= old || c.first.CompareAndSwap(old, off) {
			return
		}
	}
}

// failed notes that a disk could not be read. What is before that goes on being compared: what
// comes first on the disks is the answer, whatever the order of work. Other errors are returned.
func (c *comparer) failed(err error) error {
	var e *CompareError
	if !errors.As(err, &e) {
		return err
	}
	c.mu.Lock()
	if c.failure == nil || e.Offset < c.failure.Offset {
		c.failure = e
	}
	c.mu.Unlock()
	c.found(e.Offset)
	return nil
}

func (c *comparer) kindAt(off int64) Difference {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.allocDiff && off == c.allocAt {
		return DiffAllocation
	}
	return DiffContent
}

func (c *comparer) plan(ctx context.Context, out chan<- span) error {
	send := func(s span) error {
		select {
		case out <- s:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	for off := int64(0); off < c.total; {
		if c.first.Load() < off {
			return nil // nothing further can change the result
		}
		var s span
		var skip bool
		var err error
		if off < c.common {
			s, skip, err = c.planBoth(ctx, off)
		} else {
			larger := c.a
			if c.b.Size() > c.a.Size() {
				larger = c.b
			}
			var st block.Status
			st, err = larger.Status(ctx, off, min(chunkSize, c.total-off), nil)
			s, skip = span{off: off, n: st.Length, only: larger}, st.Zero
			if err != nil {
				err = &CompareError{larger, off, err}
			} else if st.Zero {
				st, err = larger.Status(ctx, off, c.total-off, nil)
				s.n = st.Length
			}
		}
		if err != nil {
			return err
		}
		if s.n == 0 {
			return nil // a strict difference ends the work
		}
		if skip {
			c.meter.set(c.done.Add(s.n))
		} else if err := send(s); err != nil {
			return err
		}
		off += s.n
	}
	return nil
}

// planBoth looks at the status of both disks at off. A span of length zero
// means that strict comparison found a difference there.
func (c *comparer) planBoth(ctx context.Context, off int64) (s span, skip bool, err error) {
	n := c.common - off
	sa, err := statusOf(ctx, c.a, &c.knownA, off, n)
	if err != nil {
		return s, false, err
	}
	sb, err := statusOf(ctx, c.b, &c.knownB, off, n)
	if err != nil {
		return s, false, err
	}
	s = span{off: off, n: min(sa.Length, sb.Length)}
	if c.strict && (sa.Allocated != sb.Allocated || sa.Zero != sb.Zero || sa.Data != sb.Data) {
		c.mu.Lock()
		c.allocAt, c.allocDiff = off, true
		c.mu.Unlock()
		c.found(off)
		return span{}, false, nil
	}
	switch {
	case sa.Zero && sb.Zero:
		return s, true, nil
	case sa.Zero:
		s.only = c.b
	case sb.Zero:
		s.only = c.a
	case sa.HasOffset && sb.HasOffset && sa.File == sb.File && sa.Offset == sb.Offset && sa.File != nil:
		return s, true, nil // both read the same bytes of one file
	}
	s.n = min(s.n, (off/chunkSize+1)*chunkSize-off)
	return s, false, nil
}

// statusOf is the status of a disk at off, as far as off+n at most.
func statusOf(ctx context.Context, img *block.Image, known *lastData, off, n int64) (block.Status, error) {
	if st, ok := known.at(off); ok {
		st.Length = min(st.Length, n)
		return st, nil
	}
	st, err := img.Status(ctx, off, n, nil)
	if err != nil {
		return st, &CompareError{img, off, err}
	}
	known.note(off, st)
	return st, nil
}

// viewMin is the length in bytes from which looking at bytes where the system keeps them
// can be cheaper than reading them.
const viewMin = 128 << 10

// comparePiece is how much is read at a time: few enough bytes that those of both disks
// are in the cache of the processor when they are compared.
const comparePiece = 256 << 10

func (c *comparer) compare(ctx context.Context, s span) error {
	defer func() { c.meter.set(c.done.Add(s.n)) }()
	if c.first.Load() < s.off {
		return nil
	}
	long := s.n >= viewMin
	if long && c.ways.look() {
		began := time.Now()
		if at, seen := c.view(ctx, s); seen {
			c.ways.looked(s.n, time.Since(began))
			c.differ(s, at)
			return nil
		}
		c.ways.notSeen()
	}
	began := time.Now()
	err := c.readPieces(ctx, s)
	if long && err == nil {
		c.ways.read(s.n, time.Since(began))
	}
	return err
}

// readPieces compares a span by reading it.
func (c *comparer) readPieces(ctx context.Context, s span) error {
	pa, pb := bufpool.Get(comparePiece), bufpool.Get(comparePiece)
	defer bufpool.Put(pa)
	defer bufpool.Put(pb)
	for s.n > 0 {
		piece := span{s.off, min(s.n, comparePiece), s.only}
		at, err := c.read(ctx, piece, pa[:piece.n], pb[:piece.n])
		if err != nil {
			return err
		}
		if c.differ(piece, at) {
			return nil
		}
		s.off, s.n = s.off+piece.n, s.n-piece.n
	}
	return nil
}

// differ notes a difference at so many bytes behind the start of a span, none if that is
// its end.
func (c *comparer) differ(s span, at int) bool {
	if int64(at) == s.n {
		return false
	}
	c.found(s.off + sector(at))
	return true
}

// view looks for the first difference without reading, and tells whether that could be
// done. at is s.n if there is none.
func (c *comparer) view(ctx context.Context, s span) (at int, seen bool) {
	if s.only != nil {
		seen = s.only.View(ctx, s.off, s.n, func(p []byte) { at = firstNonZero(p) })
		return at, seen
	}
	inner := false
	seen = c.a.View(ctx, s.off, s.n, func(pa []byte) {
		inner = c.b.View(ctx, s.off, s.n, func(pb []byte) { at = firstDifferent(pa, pb) })
	})
	return at, seen && inner
}

// read looks for the first difference with buffers of the length of a span.
func (c *comparer) read(ctx context.Context, s span, pa, pb []byte) (at int, err error) {
	fill := func(img *block.Image, p []byte) error {
		if _, err := img.ReadAt(ctx, p, s.off); err != nil && err != io.EOF {
			return &CompareError{img, s.off, err}
		}
		return nil
	}
	if s.only != nil {
		err := fill(s.only, pa)
		return firstNonZero(pa), err
	}
	if err := fill(c.a, pa); err != nil {
		return 0, err
	}
	if err := fill(c.b, pb); err != nil {
		return 0, err
	}
	return firstDifferent(pa, pb), nil
}

func sector(n int) int64 { return int64(n) &^ 511 }

// firstNonZero returns len(p) if all bytes are zero.
func firstNonZero(p []byte) int {
	if zero.IsZero(p) {
		return len(p)
	}
	for i, b := range p {
		if b != 0 {
			return i
		}
	}
	return len(p)
}

// firstDifferent returns len(a) if a and b, which are as long, have the same bytes.
func firstDifferent(a, b []byte) int {
	if bytes.Equal(a, b) {
		return len(a)
	}
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return len(a)
}
