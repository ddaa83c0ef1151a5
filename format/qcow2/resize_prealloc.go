package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/clustertable"
)

// preallocate gives the guest range [old, size) room, at the end of the file and
// in one piece per L2 table. The room reads as zeroes or is marked to do so.
func (im *image) preallocate(ctx context.Context, old, size int64, mode driver.Prealloc) error {
	c, c1 := old>>im.clusterBits, im.clusters(size)
	if old&(im.clusterSize-1) != 0 && im.hasBacking() {
		c++ // the cluster may hold backing data before the old end
	}
	if c >= c1 {
		return nil
	}
	if mode == driver.PreallocFalloc || mode == driver.PreallocFull {
		// Tables first, so that the data is in a row.
		if !im.external {
			perTable := int64(1) << im.l2Bits
			for i := c; i < c1; i = (i/perTable + 1) * perTable {
				if err := im.needTables(ctx, i, i+1); err != nil {
					return err
				}
				if err := im.relieve(ctx); err != nil {
					return err
				}
			}
		}
	}
	for c < c1 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := im.relieve(ctx); err != nil {
			return err
		}
		next := min(c1, (c>>im.l2Bits+1)<<im.l2Bits)
		if err := im.preallocateTable(ctx, c, next, mode, c<<im.clusterBits < old); err != nil {
			return err
		}
		c = next
	}
	return nil
}

// preallocateTable gives room to guest clusters [c0, c1) of one L2 table, as far
// as they are unallocated. first says that the old end of the disk is in c0.
func (im *image) preallocateTable(ctx context.Context, c0, c1 int64, mode driver.Prealloc, first bool) error {
	if err := im.needTables(ctx, c0, c1); err != nil {
		return err
	}
	p, err := im.pend.Reserve(ctx, c0, c1)
	if err != nil {
		return err
	}
	defer im.pend.Remove(p)
	// Only the first cluster of all can be in use: it held the end of the disk.
	e, err := im.entry(ctx, c0)
	if err != nil {
		return err
	}
	if k := im.kind(e); k != kindUnallocated && k != kindZeroPlain || first && e.Bitmap != 0 {
		if c0++; c0 == c1 {
			return nil
		}
	}
	for c0 < c1 {
		host, n, zero, err := im.roomAtEnd(ctx, c0, c1-c0)
		if err != nil {
			return err
		}
		if !im.external {
			zero, err = im.materialise(ctx, host, n<<im.clusterBits, mode, zero)
		}
		if err == nil && im.crypto != nil {
			zero, err = im.zeroEncrypted(ctx, c0<<im.clusterBits, host, n<<im.clusterBits)
		}
		if err != nil {
			im.giveBack(ctx, host, n<<im.clusterBits)
			return err
		}
		done, err := im.editEntries(ctx, c0, c0+n, discardNever, func(c int64, old ondisk.L2Entry) (ondisk.L2Entry, bool) {
			e := ondisk.L2Entry{Desc: uint64(host+(c-c0)<<im.clusterBits) | ondisk.FlagCopied}
			switch {
			case !im.extended && !zero:
				e.Desc |= ondisk.FlagZero
			case im.extended && im.hasBacking():
				e.Bitmap = allZero
			}
			return e, true
		})
		if err != nil {
			im.giveBack(ctx, host+(done-c0)<<im.clusterBits, (c0+n-done)<<im.clusterBits)
			return err
		}
		c0 += n
	}
	return nil
}

// roomAtEnd allocates clusters behind everything that was ever written. zero
// says that they read as zeroes.
func (im *image) roomAtEnd(ctx context.Context, c, n int64) (host, got int64, zero bool, err error) {
	if im.external {
		host = c << im.clusterBits
		return host, n, im.alloc.touchData(host, host+n<<im.clusterBits) || im.dataRaw, nil
	}
	a := &im.alloc
	a.mu.Lock()
	a.run = max(a.run, a.fresh>>im.clusterBits)
	if n == 1 {
		// A single cluster is sought from the first free one on; that is well
		// for tables and not for this.
		free := a.free
		a.free = max(a.free, a.fresh>>im.clusterBits)
		start, _, fresh, err := a.claim(ctx, 1, 1)
		a.free = free
		a.mu.Unlock()
		if err == nil {
			return start << im.clusterBits, 1, fresh, nil
		}
	} else {
		a.mu.Unlock()
	}
	return im.allocRun(ctx, n, n)
}

// materialise makes the file cover a new range in the way that mode asks for. It
// returns whether the range reads as zeroes; where it does not and the image
// cannot say so, it is made to.
func (im *image) materialise(ctx context.Context, host, n int64, mode driver.Prealloc, zero bool) (bool, error) {
	end := host + n
	grows := end > im.file.Size()
	if r, ok := im.file.(driver.Resizer); ok && grows {
		how := mode
		if mode == driver.PreallocMetadata {
			how = driver.PreallocOff // no entry may name what is beyond the end of the file
		}
		err := r.Resize(ctx, end, driver.ResizeOptions{Prealloc: how})
		if err != nil {
			return false, driver.Errorf(nil, "failed to resize underlying file: %w", err)
		}
		if mode == driver.PreallocMetadata && !zero && im.version < 3 {
			return true, clustertable.WriteZeroes(ctx, im.file, host, n)
		}
	} else if mode == driver.PreallocFull || mode == driver.PreallocFalloc && !ok || !zero && im.version < 3 {
		return true, clustertable.WriteZeroes(ctx, im.file, host, n)
	}
	return zero, nil
}
