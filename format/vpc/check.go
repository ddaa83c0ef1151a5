package vpc

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker. QEMU has no check for the format.
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
	front, last, header := im.found.frontOK, im.found.trailer, im.dyn.ok
	im.mu.Unlock()
	// A new block takes the place of the footer at the end: a crash may leave none. The one
	// in front says the same, so that this is no corruption.
	lost := front && !last
	if lost {
		report("Leaked: the footer at the end of the file was not written")
		last = true
	}
	for _, c := range []struct {
		ok   bool
		text string
	}{{front, "the copy of the footer in front is damaged"}, {last, "the footer at the end is missing or damaged"}, {header, "the checksum of the dynamic disk header is wrong"}} {
		if !c.ok {
			report(what + c.text)
			res.Corruptions++
		}
	}
	var wrong []blockmap.Finding
	u, err := im.Disk.Check(ctx, func(f blockmap.Finding) {
		wrong = append(wrong, f)
		text := "refers to a place where no block can be"
		switch f.Problem {
		case blockmap.Twice:
			text = "refers to a block that another entry refers to"
		case blockmap.Beyond:
			text = "points after the end of the file"
		}
		report(what + fmt.Sprintf("table entry %d (%#x) %s", f.Unit, f.Raw, text))
	})
	if err != nil {
		return nil, err
	}
	res.Corruptions += int64(len(wrong)) + u.Further
	res.TotalClusters, res.AllocatedClusters, res.FragmentedClusters = u.Units, u.Allocated, 0
	if end := im.file.Size() - footerSize; end > u.End && im.End() == 0 {
		if n := (end - u.End) / im.block; n > 0 {
			res.Leaks = n
		}
	}
	if lost {
		res.Leaks = max(res.Leaks, 1)
	}
	if fix.Errors && res.Corruptions > 0 {
		if err := im.repair(ctx, wrong); err != nil {
			return res, err
		}
		res.CorruptionsFixed, res.Corruptions = res.Corruptions-u.Further, u.Further
	}
	if (fix.Leaks && res.Leaks > 0) || res.CorruptionsFixed > 0 {
		if err := im.Trim(ctx); err != nil {
			return res, err
		}
		if err := im.closing(ctx); err != nil {
			return res, err
		}
		im.mu.Lock()
		im.found.trailer = true
		im.mu.Unlock()
		res.LeaksFixed, res.Leaks = res.Leaks, 0
	}
	return res, nil
}

// repair repairs the table, and writes both headers and the footer in front anew. The one
// at the end follows.
func (im *image) repair(ctx context.Context, wrong []blockmap.Finding) error {
	if err := im.Repair(ctx, wrong); err != nil {
		return err
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if _, err := im.file.WriteAt(ctx, im.dyn.encode(), int64(im.footer.data)); err != nil {
		return err
	}
	if err := im.writeFooter(ctx, 0); err != nil {
		return err
	}
	im.found.frontOK, im.found.trailer, im.dyn.ok = true, true, true
	return im.file.Flush(ctx)
}
