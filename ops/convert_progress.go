package ops

import "context"

// progressStep is after how many bytes of one range of data progress is reported, as QEMU
// reports it after each of its requests.
const progressStep = 2 << 20

// progressTotal is the number of bytes that will be copied, which needs a pass over the
// whole map of the source; or the size of the disk if positions are to be counted. With
// Salvage the pass is made in any case: errors of the map are reported first.
func (c *converter) progressTotal(ctx context.Context) (int64, error) {
	if c.copiedOnly = c.job.Progress != nil && !c.job.ProgressByPosition; !c.copiedOnly && !c.job.Salvage {
		return c.src.size, nil
	}
	total := int64(0)
	for off := int64(0); off < c.src.size; {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		u, err := c.classify(ctx, off)
		if err != nil {
			return 0, err
		}
		if u.kind == kindData {
			total += u.n
		}
		off += u.n
	}
	if !c.copiedOnly {
		return c.src.size, nil
	}
	return total, nil
}

// progressSteps finds the units after which progress is reported: those that end a range
// of data ends, or another progressStep of it.
type progressSteps struct{ start, end int64 } // of the range of data so far

// report takes the units in order; goesOn says that the next one is data.
func (p *progressSteps) report(u unit, goesOn bool) bool {
	if u.kind != kindData {
		return false
	}
	if u.off != p.end {
		p.start = u.off
	}
	before := (u.off - p.start) / progressStep
	p.end = u.off + u.n
	return !goesOn || (p.end-p.start)/progressStep > before
}
