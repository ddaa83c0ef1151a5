package parallels

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// damage is what a check found.
type damage struct {
	unsafe, wrongData bool // in the header
	outside, twice    []blockmap.Finding
	leaked            int64 // bytes behind all that is in use
	further           int64 // findings that are not listed
}

// analyse finds out what is wrong.
func (im *image) analyse(ctx context.Context) (*damage, error) {
	d := &damage{}
	im.mu.Lock()
	d.unsafe, d.wrongData = im.hdr.wasUnsafe, im.hdr.dataOffWrong
	kept := im.hdr.extOff != 0 // the clusters of the extension are no leak
	im.mu.Unlock()
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		if f.Problem == blockmap.Twice {
			d.twice = append(d.twice, f)
		} else {
			d.outside = append(d.outside, f)
		}
	})
	if err != nil {
		return nil, err
	}
	d.further = u.Further
	if size := roundUp(im.file.Size(), sectorSize); size > u.End && !kept {
		d.leaked = size - u.End
	}
	return d, nil
}

// corruptions counts what is wrong, but leaks.
func (d *damage) corruptions() int64 {
	n := int64(len(d.outside)+len(d.twice)) + d.further
	if d.unsafe {
		n++
	}
	if d.wrongData {
		n++
	}
	return n
}

// tell reports the damage in the lines of QEMU.
func (d *damage) tell(fix driver.CheckFix, report func(line string)) {
	say := func(repaired bool, format string, args ...any) {
		what := "ERROR "
		if repaired {
			what = "Repairing "
		}
		report(what + fmt.Sprintf(format, args...))
	}
	if d.unsafe {
		say(fix.Errors, "image was not closed correctly")
	}
	if d.wrongData {
		say(fix.Errors, "data_off field has incorrect value")
	}
	for _, f := range d.outside {
		say(fix.Errors, "cluster %d is outside image", f.Unit)
	}
	if d.leaked > 0 {
		say(fix.Leaks, "space leaked at the end of the image %d", d.leaked)
	}
	for _, f := range d.twice {
		say(fix.Errors, "duplicate offset in BAT entry %d", f.Unit)
	}
}

// Check implements driver.Checker. The lines are those of QEMU.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.Writable() {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	d, err := im.analyse(ctx)
	if err != nil {
		return nil, err
	}
	d.tell(fix, report)
	res := &driver.CheckResult{Corruptions: d.corruptions(), Leaks: roundUp(d.leaked, im.cluster) / im.cluster}
	if fix.Errors && res.Corruptions > 0 {
		// Close writes the header as it should be.
		if err := im.Repair(ctx, append(d.outside, d.twice...)); err != nil {
			return res, err
		}
		im.mu.Lock()
		im.hdr.wasUnsafe, im.hdr.dataOffWrong = false, false
		im.mu.Unlock()
		res.CorruptionsFixed, res.Corruptions = res.Corruptions-d.further, d.further
	}
	if fix.Leaks && res.Leaks > 0 {
		if err := im.Trim(ctx); err != nil {
			return res, err
		}
		res.LeaksFixed, res.Leaks = res.Leaks, 0
	}
	im.mu.Lock()
	total := int64(im.hdr.entries)
	im.mu.Unlock()
	return res, im.statistics(ctx, res, total)
}

// repairOnOpen makes an image fit to be written to. One that was not closed in order is repaired
// as a whole. Otherwise clusters that two entries name are copied, since a write to one of them
// would show in the other; nothing is lost by that. What an entry names behind the end of the file stays
// an error: a file that is whole again has it.
func (im *image) repairOnOpen(ctx context.Context, report func(line string)) error {
	whole := im.hdr.wasUnsafe || im.hdr.dataOffWrong
	if !whole {
		twice, err := im.Overlaps(ctx)
		if errors.Is(err, driver.ErrBudget) {
			return nil // the first allocation says so
		}
		if err != nil || !twice {
			return err
		}
	}
	d, err := im.analyse(ctx)
	if err != nil {
		return err
	}
	// Nobody asked for it: it stays within the size of the file.
	if n := int64(len(d.twice)) + d.further; n > im.file.Size()/im.cluster {
		return driver.Errorf(driver.ErrCorrupt, "%d entries of the table name a cluster that another one has", n)
	}
	if whole {
		_, err := im.Check(ctx, driver.CheckFix{Leaks: true, Errors: true}, report, nil)
		return err
	}
	d = &damage{twice: d.twice}
	d.tell(driver.CheckFix{Errors: true}, report)
	return im.Repair(ctx, d.twice)
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
