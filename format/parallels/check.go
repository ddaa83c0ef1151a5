package parallels

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker. The lines are those of QEMU.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.Writable() {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	say := func(repaired bool, format string, args ...any) {
		what := "ERROR "
		if repaired {
			what = "Repairing "
		}
		report(what + fmt.Sprintf(format, args...))
	}
	res := &driver.CheckResult{}
	im.mu.Lock()
	unsafe, wrongData := im.hdr.wasUnsafe, im.hdr.dataOffWrong
	total := int64(im.hdr.entries)
	im.mu.Unlock()
	var header int64 // corruptions there
	if unsafe {
		say(fix.Errors, "image was not closed correctly")
		header++
	}
	if wrongData {
		say(fix.Errors, "data_off field has incorrect value")
		header++
	}
	var outside, twice []blockmap.Finding
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		if f.Problem == blockmap.Twice {
			twice = append(twice, f)
			return
		}
		outside = append(outside, f)
		say(fix.Errors, "cluster %d is outside image", f.Unit)
	})
	if err != nil {
		return nil, err
	}
	var leaked int64
	if size := roundUp(im.file.Size(), sectorSize); size > u.End {
		say(fix.Leaks, "space leaked at the end of the image %d", size-u.End)
		leaked = roundUp(size-u.End, im.cluster) / im.cluster
	}
	for _, f := range twice {
		say(fix.Errors, "duplicate offset in BAT entry %d", f.Unit)
	}
	wrong := append(outside, twice...)
	res.Corruptions, res.Leaks = header+int64(len(wrong))+u.Further, leaked
	if fix.Errors && res.Corruptions > 0 {
		// Close writes the header as it should be.
		if err := im.Repair(ctx, wrong); err != nil {
			return res, err
		}
		im.mu.Lock()
		im.hdr.wasUnsafe, im.hdr.dataOffWrong = false, false
		im.mu.Unlock()
		res.CorruptionsFixed, res.Corruptions = res.Corruptions-u.Further, u.Further
	}
	if fix.Leaks && leaked > 0 {
		if err := im.Trim(ctx); err != nil {
			return res, err
		}
		res.LeaksFixed, res.Leaks = leaked, 0
	}
	return res, im.statistics(ctx, res, total)
}

// statistics counts clusters, as QEMU does it: one that follows an absent one is not
// fragmented.
func (im *image) statistics(ctx context.Context, res *driver.CheckResult, total int64) error {
	res.TotalClusters = total
	res.ImageEndOffset = im.hdr.dataStart
	size := im.file.Size()
	last, next := int64(-2), int64(0)
	return im.Entries(ctx, func(unit int64, e blockmap.Entry) error {
		if e.State != blockmap.Data || e.Host > size-im.cluster {
			return nil
		}
		res.AllocatedClusters++
		if unit == last+1 && e.Host != next {
			res.FragmentedClusters++
		}
		last, next = unit, e.Host+im.cluster
		res.ImageEndOffset = max(res.ImageEndOffset, next)
		return nil
	})
}
