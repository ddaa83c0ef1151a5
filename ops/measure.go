package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

// MeasureRequest describes the image to be measured.
type MeasureRequest struct {
	Driver  driver.Driver
	Options opts.Dict // of Create
	Size    int64     // of the disk, if Source is nil
	// Source is the image that would be converted; its allocation counts.
	Source *block.Image
	// Objects holds the secrets that options refer to by id, or nil.
	Objects driver.Objects
}

// Measure returns how large an image file would be. Options that the format does
// not have but the protocol "file" has are the caller's to remove.
func Measure(ctx context.Context, req MeasureRequest) (*qapi.BlockMeasureInfo, error) {
	m, ok := req.Driver.(driver.Measurer)
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "block driver '%s' does not support size measurement", req.Driver.Desc().Name)
	}
	r := &driver.MeasureRequest{Size: req.Size, Options: req.Options, Objects: req.Objects}
	if req.Source != nil {
		r.Size = req.Source.Size()
		r.Source = func(ctx context.Context, off, n int64) (driver.Extent, error) {
			// The number of extents depends on the image, which may be hostile.
			if err := ctx.Err(); err != nil {
				return driver.Extent{}, err
			}
			st, err := req.Source.Status(ctx, off, n, nil)
			if err != nil {
				return driver.Extent{}, err
			}
			ext := driver.Extent{Length: st.Length, Kind: driver.ExtentZero}
			switch {
			case st.Length == 0:
				ext.Kind = driver.ExtentEOF
			case st.Data && !st.Zero:
				ext.Kind = driver.ExtentData
			}
			return ext, nil
		}
	}
	got, err := m.Measure(ctx, r)
	if err != nil {
		return nil, err
	}
	out := &qapi.BlockMeasureInfo{Required: got.Required, FullyAllocated: got.FullyAllocated, Bitmaps: got.Bitmaps}
	if out.Bitmaps == nil && req.Source != nil && req.Driver.Desc().StoresBitmaps {
		out.Bitmaps, err = bitmapsSize(ctx, req.Source, req.Options)
	}
	return out, err
}
