package vhdx

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker. A log that was replayed when the image was opened counts
// as a corruption that is repaired, and blocks are not counted, as QEMU has it.
func (im *image) Check(ctx context.Context, fix driver.CheckFix, report func(line string), _ func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !im.Writable() {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	what := "ERROR "
	if fix.Errors {
		what = "Repairing "
	}
	res := &driver.CheckResult{}
	im.mu.Lock()
	if im.replays {
		res.CorruptionsFixed, im.replays = 1, false
	}
	im.mu.Unlock()
	var wrong []blockmap.Finding
	size := im.raw.Size()
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		text := "refers to a place where no block can be"
		switch f.Problem {
		case blockmap.Twice:
			text = "refers to a block that another entry refers to"
		case blockmap.Beyond:
			used := min(im.meta.block, im.Size()-f.Unit*im.meta.block)
			if f.Entry.Host < size && f.Entry.Host+used <= size {
				return // QEMU makes fixed disks that end within their last block
			}
			text = fmt.Sprintf("points after the end of the file (%d)", size)
		}
		wrong = append(wrong, f)
		report(what + fmt.Sprintf("table entry %d (%#x) %s", im.meta.index(f.Unit), f.Raw, text))
	})
	if err != nil {
		return nil, err
	}
	res.Corruptions = int64(len(wrong)) + u.Further
	if fix.Errors && res.Corruptions > 0 {
		if err := im.Repair(ctx, wrong); err != nil {
			return res, err
		}
		res.CorruptionsFixed, res.Corruptions = res.CorruptionsFixed+res.Corruptions-u.Further, u.Further
	}
	return res, nil
}
