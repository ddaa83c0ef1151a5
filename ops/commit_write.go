package ops

import (
	"bytes"
	"context"
	"sync/atomic"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/zero"
)

// write writes to the base. Zeroes are left out where that reads as zeroes, and what it has already where it
// holds data: a cluster that a guest has written in part has the rest from the base.
func (c *committer) write(ctx context.Context, p []byte, off int64) error {
	if c.whole {
		return c.put(ctx, p, off)
	}
	for len(p) > 0 {
		st, err := c.job.Base.Status(ctx, off, int64(len(p)), nil)
		if err != nil {
			return err
		}
		q := p
		if st.Length > 0 {
			q = p[:min(st.Length, int64(len(p)))]
		}
		switch {
		case st.Zero:
			err = c.putRuns(ctx, q, off, nextData)
		case st.Data && st.Depth == 0 && !st.Compressed && c.same.worthLooking():
			// A change of a part of a compressed cluster, or of one that a lower layer has, would read it once more.
			err = c.writeOver(ctx, q, off)
		default:
			err = c.put(ctx, q, off)
		}
		if err != nil {
			return err
		}
		p, off = p[len(q):], off+int64(len(q))
	}
	return nil
}

// put writes all of p.
func (c *committer) put(ctx context.Context, p []byte, off int64) error {
	c.early.wrote(int64(len(p)))
	_, err := c.job.Base.WriteAt(ctx, p, off)
	return err
}

// putRuns writes the runs of p that next finds.
func (c *committer) putRuns(ctx context.Context, p []byte, off int64, next func([]byte) (skip, n int)) error {
	for len(p) > 0 {
		skip, n := next(p)
		if n > 0 {
			if err := c.put(ctx, p[skip:skip+n], off+int64(skip)); err != nil {
				return err
			}
		}
		p, off = p[skip+n:], off+int64(skip+n)
	}
	return nil
}

// writeOver writes what the base has otherwise. What the base cannot read is written.
func (c *committer) writeOver(ctx context.Context, p []byte, off int64) error {
	old := bufpool.Get(len(p))
	defer bufpool.Put(old)
	if n, err := c.job.Base.ReadAt(ctx, old, off); err != nil || n < len(p) {
		return c.put(ctx, p, off)
	}
	written := 0
	err := c.putRuns(ctx, p, off, func(p []byte) (skip, n int) {
		skip, n = nextChange(p, old[len(old)-len(p):])
		written += n
		return skip, n
	})
	c.same.looked(len(p), len(p)-written)
	return err
}

// sameData tells whether a look at what the base has pays: it costs a read, and saves a write where the base has
// the same. The zero value has seen nothing.
type sameData struct{ seen, same atomic.Int64 }

// sameTrial is how many bytes are compared before the result counts.
const sameTrial = 4 << 20

// worthLooking says whether at least half of what was compared was the same.
func (s *sameData) worthLooking() bool {
	seen := s.seen.Load()
	return seen < sameTrial || 2*s.same.Load() >= seen
}

// looked notes that of n bytes that were compared, same need not be written.
func (s *sameData) looked(n, same int) {
	s.same.Add(int64(same))
	s.seen.Add(int64(n))
}

const (
	zeroPage = 4 << 10
	// zeroGap is how many bytes that need not be written are written rather than split a request in two.
	zeroGap = 32 << 10
)

// nextData finds the first range of p with other bytes than zeroes, in pages: n
// bytes after skip. It reaches over short runs of zeroes. If there is none, n is 0
// and skip is all of p.
func nextData(p []byte) (skip, n int) {
	return nextRun(len(p), func(from, to int) bool { return zero.IsZero(p[from:to]) })
}

// nextChange is nextData for the pages of p that differ from those of old, which is as long.
func nextChange(p, old []byte) (skip, n int) {
	return nextRun(len(p), func(from, to int) bool { return bytes.Equal(p[from:to], old[from:to]) })
}

// nextRun finds the first range of pages, of size bytes, that are not to be left out.
func nextRun(size int, leaveOut func(from, to int) bool) (skip, n int) {
	at := 0
	run := func(want bool) int {
		start := at
		for at < size {
			end := min(at+zeroPage, size)
			if leaveOut(at, end) != want {
				break
			}
			at = end
		}
		return at - start
	}
	skip = run(true)
	for at < size {
		run(false)
		n = at - skip
		if run(true) >= zeroGap {
			break
		}
	}
	return skip, n
}
