package qed

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker. QEMU reports no single finding, and neither do we.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, _ func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.Writable() {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	res, wrong, err := im.analyse(ctx)
	if err != nil {
		return nil, err
	}
	before := *res
	if fix.Errors && len(wrong) > 0 {
		if err := im.Repair(ctx, wrong); err != nil {
			return res, err
		}
	}
	if fix.Leaks && res.Leaks > 0 || fix.Errors && len(wrong) > 0 && fix.Leaks {
		if err := im.Compact(ctx); err != nil {
			return res, err
		}
	}
	if fix.Leaks || fix.Errors {
		if res, _, err = im.analyse(ctx); err != nil {
			return nil, err
		}
		res.CorruptionsFixed = max(0, before.Corruptions-res.Corruptions)
		res.LeaksFixed = max(0, before.Leaks-res.Leaks)
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.broken = res.Corruptions > 0
	if fix.Errors && !im.broken && im.hdr.features&featureCheck != 0 && !im.Changed() {
		h := im.hdr
		h.features &^= featureCheck
		err = im.writeHeader(ctx, h)
	}
	return res, err
}

// analyse counts what is wrong.
func (im *image) analyse(ctx context.Context) (*driver.CheckResult, []blockmap.Finding, error) {
	im.mu.Lock()
	table := im.hdr.table
	im.mu.Unlock()
	res := &driver.CheckResult{}
	var wrong []blockmap.Finding
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		wrong = append(wrong, f)
		switch f.Problem {
		case blockmap.TableTwice:
			res.Corruptions += table // one for each cluster
		case blockmap.Invalid:
			res.AllocatedClusters++
			res.Corruptions++
		default:
			res.Corruptions++
		}
	})
	if err != nil {
		return nil, nil, err
	}
	res.Corruptions += u.Further
	res.Leaks = max(0, u.Slots-u.Used)
	res.TotalClusters, res.FragmentedClusters = u.Units, u.Fragmented
	res.AllocatedClusters += u.Allocated
	return res, wrong, nil
}

// repairOnOpen checks an image that was not closed in order.
func (im *image) repairOnOpen(ctx context.Context) error {
	_, err := im.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, func(string) {}, nil)
	return err
}
