package vmdk

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// Measure implements driver.Measurer. Of images in several files it is the sum of the
// extents, without the descriptor; what compressed grains need is not known.
func (vmdkDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	p, err := newPlan(req.Options, req.Size)
	switch {
	case err != nil:
		return nil, err
	case p.Subformat == streamOptimized:
		return nil, driver.Errorf(driver.ErrUnsupported, "the size of a streamOptimized image depends on how well its data can be compressed")
	case p.flat:
		return &driver.Measured{Required: p.size, FullyAllocated: p.size}, nil
	}
	part := p.size
	if p.split {
		part = splitSize
	}
	m := &driver.Measured{}
	for start := int64(0); start < p.size || start == 0 && !p.split; start += max(part, 1) {
		size := min(part, p.size-start)
		extent := driver.MeasureRequest{Size: size}
		if req.Source != nil {
			extent.Source = func(ctx context.Context, off, n int64) (driver.Extent, error) { return req.Source(ctx, start+off, n) }
		}
		h := newHeader(size, p)
		unit := int64(h.grain) * sectorSize
		data, err := blockmap.DataUnits(ctx, &extent, unit)
		if err != nil {
			return nil, err
		}
		empty := int64(h.overhead) * sectorSize
		m.Required += empty + data
		m.FullyAllocated += empty + (size+unit-1)/unit*unit
	}
	return m, nil
}
