package blockmap

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// DataUnits returns how many bytes of whole units the data of a source needs, for
// driver.Measurer. Without a source that is 0.
func DataUnits(ctx context.Context, req *driver.MeasureRequest, unit int64) (int64, error) {
	if req.Source == nil {
		return 0, nil
	}
	var sum, counted int64 // counted: units before this offset are in the sum
	for off := int64(0); off < req.Size; {
		x, err := req.Source(ctx, off, req.Size-off)
		if err != nil {
			return 0, err
		}
		if x.Kind == driver.ExtentEOF {
			return sum, nil
		}
		if x.Length <= 0 {
			return 0, driver.Errorf(driver.ErrInvalid, "the source does not report what is at offset %d", off)
		}
		end := off + x.Length
		if x.Kind == driver.ExtentData || x.Kind == driver.ExtentEncoded {
			from, to := max(off/unit*unit, counted), roundUp(end, unit)
			sum += max(0, to-from)
			counted = max(counted, to)
		}
		off = end
	}
	return sum, nil
}
