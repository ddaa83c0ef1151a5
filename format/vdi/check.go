package vdi

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker. Blocks that the header counts and no entry names
// are leaks: they cost room only. A count that is too low is a corruption, since
// other programs put new blocks where it says.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.Writable() {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	im.mu.Lock()
	counted, blocks := int64(im.hdr.allocated), uint64(im.hdr.blocks)
	im.mu.Unlock()
	var wrong []blockmap.Finding
	tooLarge := int64(0)
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		wrong = append(wrong, f)
		switch {
		case f.Problem == blockmap.Beyond && f.Raw >= blocks:
			tooLarge++
			report(fmt.Sprintf("ERROR: block index %d too large, is %d", f.Unit, f.Raw))
		case f.Problem == blockmap.Twice:
			report(fmt.Sprintf("ERROR: block index %d also used by %d", f.Raw, f.Raw))
		case f.Problem == blockmap.Beyond:
			report(fmt.Sprintf("ERROR: block index %d points after the end of the file, is %d", f.Unit, f.Raw))
		default:
			report(fmt.Sprintf("ERROR: block index %d too large, is %d", f.Unit, f.Raw))
		}
	})
	if err != nil {
		return nil, err
	}
	u.Allocated -= tooLarge
	res := &driver.CheckResult{Corruptions: int64(len(wrong)) + u.Further, TotalClusters: u.Units, AllocatedClusters: u.Allocated, FragmentedClusters: u.Fragmented}
	if counted != u.Allocated {
		report(fmt.Sprintf("ERROR: allocated blocks mismatch, is %d, should be %d", u.Allocated, counted))
	}
	res.Leaks = max(0, counted-u.Allocated)
	if counted < u.Allocated {
		res.Corruptions++
	}
	if fix.Errors && res.Corruptions > 0 {
		if err := im.Repair(ctx, wrong); err != nil {
			return res, err
		}
		res.CorruptionsFixed, res.Corruptions = res.Corruptions-u.Further, u.Further
	}
	if fix.Leaks && res.Leaks > 0 || res.CorruptionsFixed > 0 {
		// The count is right again once all blocks lie in a row.
		if err := im.Compact(ctx); err != nil {
			return res, err
		}
		res.LeaksFixed, res.Leaks = res.Leaks, 0
	}
	return res, nil
}

var _ driver.Checker = (*image)(nil)
