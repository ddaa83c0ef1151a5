package quorum

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/pass"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
)

type node struct {
	children  []driver.Storage
	threshold int
	verify    bool
	rewrite   bool
	fifo      bool
	// ranges serializes votes and changes of a range: children that are being
	// written differ.
	ranges rangelock.Locker
}

var (
	_ driver.Storage    = (*node)(nil)
	_ driver.ZeroWriter = (*node)(nil)
	_ driver.Discarder  = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.children[0].Size() }

// Limits implements driver.Node: children are cut to their own limits by the block layer.
func (*node) Limits() driver.Limits { return driver.Limits{} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	t := driver.Traits{ZeroInit: true, FixedSize: true}
	for _, c := range n.children {
		t.ZeroInit = t.ZeroInit && c.Traits().ZeroInit
	}
	return t
}

// Close implements driver.Node.
func (*node) Close(context.Context) error { return nil }

// all runs f for every child at once and returns how each ended.
func (n *node) all(f func(i int, c driver.Storage) error) []error {
	errs := make([]error, len(n.children))
	var wg sync.WaitGroup
	for i, c := range n.children {
		wg.Go(func() { errs[i] = f(i, c) })
	}
	wg.Wait()
	return errs
}

// enough returns nil if enough children ended well, else their errors.
func (n *node) enough(errs []error) error {
	good := 0
	for _, err := range errs {
		if err == nil {
			good++
		}
	}
	if good >= n.threshold {
		return nil
	}
	return errors.Join(errs...)
}

// hold locks a range for a vote or for a change.
func (n *node) hold(ctx context.Context, off, length int64, mode rangelock.Mode) (func(), error) {
	if length <= 0 {
		return func() {}, nil
	}
	held, err := n.ranges.Lock(ctx, off, length, mode)
	if err != nil {
		return nil, err
	}
	return held.Unlock, nil
}

// ReadAt implements driver.Storage.
func (n *node) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	size := n.Size()
	if off >= size {
		return 0, io.EOF
	}
	var eof error
	if int64(len(p)) > size-off {
		p, eof = p[:size-off], io.EOF
	}
	mode := rangelock.Shared
	if n.rewrite {
		mode = rangelock.Exclusive
	}
	release, err := n.hold(ctx, off, int64(len(p)), mode)
	if err != nil {
		return 0, err
	}
	defer release()
	if n.fifo {
		err = n.readFirst(ctx, p, off)
	} else {
		err = n.vote(ctx, p, off)
	}
	if err != nil {
		return 0, err
	}
	return len(p), eof
}

// readFirst reads from the first child that answers.
func (n *node) readFirst(ctx context.Context, p []byte, off int64) error {
	var errs []error
	for _, c := range n.children {
		err := readWhole(ctx, c, p, off)
		if err == nil || ctx.Err() != nil {
			return err
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func readWhole(ctx context.Context, c driver.Storage, p []byte, off int64) error {
	m, err := c.ReadAt(ctx, p, off)
	if err == io.EOF {
		clear(p[m:])
		return nil
	}
	return err
}

// vote reads from all children and takes what most of them hold.
func (n *node) vote(ctx context.Context, p []byte, off int64) error {
	copies := make([][]byte, len(n.children))
	copies[0] = p
	for i := range copies[1:] {
		copies[i+1] = bufpool.Get(len(p))
		defer bufpool.Put(copies[i+1])
	}
	errs := n.all(func(i int, c driver.Storage) error { return readWhole(ctx, c, copies[i], off) })
	if err := n.enough(errs); err != nil {
		return err
	}
	if n.verify {
		return compare(copies, errs, off)
	}
	winner, votes := 0, 0
	for i := range copies {
		if v := votesFor(copies, errs, i); v > votes {
			winner, votes = i, v
		}
	}
	if votes < n.threshold {
		return driver.Errorf(driver.ErrCorrupt, "quorum: %d bytes at offset %d: no %d children agree: %w", len(p), off, n.threshold, syscall.EIO)
	}
	lost := make([]bool, len(copies))
	for i := range copies {
		lost[i] = errs[i] != nil || !bytes.Equal(copies[i], copies[winner])
	}
	copy(p, copies[winner])
	if n.rewrite {
		n.mend(ctx, lost, p, off)
	}
	return nil
}

func votesFor(copies [][]byte, errs []error, i int) int {
	votes := 0
	for j := range copies {
		if errs[i] == nil && errs[j] == nil && (i == j || bytes.Equal(copies[i], copies[j])) {
			votes++
		}
	}
	return votes
}

// compare fails where two children differ.
func compare(copies [][]byte, errs []error, off int64) error {
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for i := range copies[0] {
		if copies[0][i] != copies[1][i] {
			return driver.Errorf(driver.ErrCorrupt, "quorum: offset=%d bytes=%d contents mismatch at offset %d", off, len(copies[0]), off+int64(i))
		}
	}
	return nil
}

// mend writes p to the children that lost. The range is held alone. It is best effort:
// the answer is right whether a child takes it or not.
func (n *node) mend(ctx context.Context, lost []bool, p []byte, off int64) {
	for i, c := range n.children {
		if lost[i] {
			_, _ = c.WriteAt(ctx, p, off)
		}
	}
}

// change runs f for every child while no vote on the range is under way.
func (n *node) change(ctx context.Context, off, length int64, f func(c driver.Storage) error) error {
	release, err := n.hold(ctx, off, length, rangelock.Exclusive)
	if err != nil {
		return err
	}
	defer release()
	return n.enough(n.all(func(_ int, c driver.Storage) error { return f(c) }))
}

// WriteAt implements driver.Storage.
func (n *node) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	err := n.change(ctx, off, int64(len(p)), func(c driver.Storage) error {
		_, err := c.WriteAt(ctx, p, off)
		return err
	})
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// WriteZeroes implements driver.ZeroWriter.
func (n *node) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	// A child that cannot would be left with other contents.
	return n.change(ctx, off, length, func(c driver.Storage) error {
		return pass.WriteZeroes(ctx, c, off, length, flags&^driver.ZeroNoFallback)
	})
}

// Discard implements driver.Discarder: children may differ in what discarded ranges
// read as, which would end every later vote on them.
func (*node) Discard(context.Context, int64, int64) error { return driver.ErrUnsupported }

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	return n.enough(n.all(func(_ int, c driver.Storage) error { return c.Flush(ctx) }))
}

// Map implements driver.Storage: zeroes where all children have zeroes.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	out := driver.Extent{Length: length, Kind: driver.ExtentZero}
	for _, c := range n.children {
		e, err := c.Map(ctx, off, out.Length)
		if err != nil {
			// What the child cannot tell must be read.
			return driver.Extent{Length: out.Length, Kind: driver.ExtentData}, ctx.Err()
		}
		if e.Kind == driver.ExtentEOF {
			return e, nil
		}
		out.Length = min(out.Length, e.Length)
		if e.Kind != driver.ExtentZero {
			out.Kind = driver.ExtentData
		}
	}
	return out, nil
}
