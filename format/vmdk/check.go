package vmdk

import (
	"context"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Check implements driver.Checker: no entry may name a place that is not in the file,
// and no two the same; grains that are compressed are decoded. Of sparse extents that can be written, a grain that is there twice
// gets a copy, and one that is not in the file is given up. Room for grains that
// nothing names, and copies of tables that differ from them, count as leaks: nothing is lost. Only room at the end of
// the file can be given back, and it alone counts where grains can be zeroes.
func (n *node) Check(ctx context.Context, fix driver.CheckFix, report func(string), progress func(done, total int64)) (*driver.CheckResult, error) {
	if (fix.Leaks || fix.Errors) && !n.write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	res := &driver.CheckResult{}
	for _, x := range n.extents {
		if x.compressed {
			var told func(int64)
			if progress != nil {
				told = func(done int64) { progress(done, n.Size()) }
			}
			if err := x.checkCompressed(ctx, res, report, told); err != nil {
				return nil, err
			}
		} else if x.disk != nil {
			if err := n.checkExtent(ctx, x, fix, res, report); err != nil {
				return nil, err
			}
		} else if x.flat() && x.access != accessNone && x.file.Size() < x.offset+x.size.Load() {
			res.Corruptions++
			report(fmt.Sprintf("ERROR: extent '%s' ends at %d, %d bytes before its end", x.name, x.file.Size(), x.offset+x.size.Load()-x.file.Size()))
		}
		if progress != nil {
			progress(x.start+x.size.Load(), n.Size())
		}
	}
	return res, nil
}

func (n *node) checkExtent(ctx context.Context, x *extent, fix driver.CheckFix, res *driver.CheckResult, report func(string)) error {
	var wrong []blockmap.Finding
	u, err := x.disk.Check(ctx, func(f blockmap.Finding) {
		if f.Problem != blockmap.BadTable && f.Problem != blockmap.TableTwice {
			wrong = append(wrong, f)
		}
		res.Corruptions++
		sector := (x.start + f.Unit*x.grain) / sectorSize
		switch f.Problem {
		case blockmap.Beyond:
			report(fmt.Sprintf("ERROR: cluster offset for sector %d points after EOF", sector))
		case blockmap.Twice:
			report(fmt.Sprintf("ERROR: the grain of sector %d is at offset %#x, where another one is", sector, f.Entry.Host))
		case blockmap.BadTable, blockmap.TableTwice:
			report(badTable(f))
		default:
			report(fmt.Sprintf("ERROR: could not get cluster_offset for sector %d", sector))
		}
	})
	if err != nil {
		return err
	}
	res.Corruptions += u.Further
	if fix.Errors && len(wrong) > 0 && x.disk.Writable() {
		if err := x.disk.Repair(ctx, wrong); err != nil {
			return err
		}
		res.Corruptions -= int64(len(wrong))
		res.CorruptionsFixed += int64(len(wrong))
	}
	if x.header == nil {
		return nil
	}
	stale, err := x.staleCopies(ctx, report)
	if err != nil {
		return err
	}
	// No program uses them again, and nothing but a conversion gets rid of them. Where grains can become zeroes, programs
	// leave their room behind whenever that happens: that is no fault.
	if u.Gaps > 0 && !x.zeroGrains {
		report(fmt.Sprintf("Leaked grains between others: %d bytes", u.Gaps*x.grain))
		res.Leaks += u.Gaps
	}
	if leaked := (x.file.Size() - u.End) / x.grain; leaked > 0 {
		report(fmt.Sprintf("Leaked grains at the end of the file: %d bytes", x.file.Size()-u.End))
		if fix.Leaks && x.disk.Writable() {
			if err := x.disk.Trim(ctx); err != nil {
				return err
			}
			res.LeaksFixed += leaked
		} else {
			res.Leaks += leaked
		}
	}
	return x.mendTwins(ctx, stale, fix, res, report)
}

func badTable(f blockmap.Finding) string {
	return fmt.Sprintf("ERROR: entry %d of the grain directory (%#x) names a table that cannot be there", f.Unit, f.Raw)
}
