package parallels

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// writableBundle is a bundle whose newest images can be written. Those of snapshots are read only.
type writableBundle struct{ *bundle }

var (
	_ driver.Allocator  = writableBundle{}
	_ driver.ZeroWriter = writableBundle{}
	_ driver.Discarder  = writableBundle{}
	_ driver.Checker    = (*bundle)(nil)
)

// fits refuses to write to an image that does not have the size of its part: a cluster would hold bytes of the next
// part, or there is none for the end. In the last part a cluster may be cut short.
func (l layer) fits(p bundlePart, last bool) error {
	if n := p.end - p.start; l.image.Size() < n || !last && n%l.image.cluster != 0 {
		return driver.Errorf(driver.ErrReadOnly, "the image '%.100s' has %d bytes in clusters of %d, its part of the disk %d: the bundle can be read only", l.name, l.image.Size(), l.image.cluster, n)
	}
	return nil
}

// at returns the part that holds an offset of the disk.
func (b *bundle) at(off int64) bundlePart {
	i, _ := slices.BinarySearchFunc(b.parts, off, func(p bundlePart, off int64) int {
		switch {
		case p.end <= off:
			return -1
		case p.start > off:
			return 1
		}
		return 0
	})
	return b.parts[i]
}

// Allocate implements driver.Allocator. What images below have of a cluster is what the block layer fills it with.
func (b writableBundle) Allocate(ctx context.Context, off, length int64) (driver.WriteTarget, error) {
	if off < 0 || length <= 0 || off >= b.Size() {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrRange, "write of %d bytes at %d: beyond the end of the disk", length, off)
	}
	p := b.at(off)
	length = min(length, p.end-off, b.Size()-off)
	if top := p.layers[0]; top.image != nil {
		return top.image.Allocate(ctx, off-p.start, length)
	}
	return driver.WriteTarget{Length: length, Child: p.layers[0].plain, HostOffset: off - p.start}, nil
}

// WriteZeroes implements driver.ZeroWriter. Over another image, zeroes are written as data: a cluster that is absent
// would show what is below.
func (b writableBundle) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	return b.each(off, length, func(p bundlePart, off, n int64) error {
		top := p.layers[0]
		if len(p.layers) > 1 {
			return driver.ErrUnsupported
		}
		if top.image != nil {
			return top.image.WriteZeroes(ctx, off, n, flags)
		}
		if z, ok := top.plain.(driver.ZeroWriter); ok {
			return z.WriteZeroes(ctx, off, n, flags)
		}
		return driver.ErrUnsupported
	})
}

// Discard implements driver.Discarder. Over another image nothing is given up.
func (b writableBundle) Discard(ctx context.Context, off, length int64) error {
	return b.each(off, length, func(p bundlePart, off, n int64) error {
		top := p.layers[0]
		if len(p.layers) > 1 {
			return nil
		}
		if top.image != nil {
			return top.image.Discard(ctx, off, n)
		}
		if d, ok := top.plain.(driver.Discarder); ok {
			return d.Discard(ctx, off, n)
		}
		return nil
	})
}

// each calls fn for each part that a range has a piece of; off is relative to the part.
func (b *bundle) each(off, length int64, fn func(p bundlePart, off, n int64) error) error {
	for end := min(off+length, b.Size()); off < end; {
		p := b.at(off)
		n := min(end, p.end) - off
		if err := fn(p, off-p.start, n); err != nil {
			return err
		}
		off += n
	}
	return nil
}

// Flush implements driver.Node.
func (b writableBundle) Flush(ctx context.Context) error {
	var errs []error
	for _, p := range b.parts {
		if top := p.layers[0]; top.image != nil {
			errs = append(errs, top.image.Flush(ctx))
		} else {
			errs = append(errs, top.plain.Flush(ctx))
		}
	}
	return errors.Join(errs...)
}

// Check implements driver.Checker: of all images, in the order of the disk, the newest of a part first. Those below
// are not repaired, since they are those of snapshots.
func (b *bundle) Check(ctx context.Context, fix driver.CheckFix, report func(line string), progress func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !b.req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	sum := &driver.CheckResult{}
	for _, p := range b.parts {
		for i, l := range p.layers {
			say := func(line string) { report(l.name + ": " + line) }
			if l.plain != nil {
				if missing := p.end - p.start - l.plain.Size(); missing > 0 {
					say(fmt.Sprintf("ERROR the file ends %d bytes before its part of the disk", missing))
					sum.Corruptions++
				}
				continue
			}
			f := fix
			if i > 0 {
				f = driver.CheckFix{}
			}
			r, err := l.image.Check(ctx, f, say, nil)
			if err != nil {
				return nil, driver.Errorf(nil, "the image '%.100s': %w", l.name, err)
			}
			sum.Corruptions += r.Corruptions
			sum.CorruptionsFixed += r.CorruptionsFixed
			sum.Leaks += r.Leaks
			sum.LeaksFixed += r.LeaksFixed
			sum.TotalClusters += r.TotalClusters
			sum.AllocatedClusters += r.AllocatedClusters
			sum.FragmentedClusters += r.FragmentedClusters
		}
		if progress != nil {
			progress(p.end, b.Size())
		}
	}
	return sum, nil
}
