package parallels

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/opts"
)

// plan returns the header of a new image for options and a size.
func plan(d opts.Dict, size int64) (*header, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(d, &o); err != nil {
		return nil, err
	}
	size = max(size, o.Size)
	if size > math.MaxInt64-sectorSize {
		return nil, invalid("image size is too large for this cluster size")
	}
	size = roundUp(size, sectorSize)
	if o.ClusterSize >= math.MaxInt64>>32 {
		return nil, invalid("cluster size is too large")
	}
	cluster := roundUp(o.ClusterSize, sectorSize)
	// QEMU makes images with more entries than it opens.
	if size>>32 >= cluster || roundUp(size, cluster)/cluster > maxEntries {
		return nil, invalid("image size is too large for this cluster size")
	}
	if cluster/sectorSize > maxTracks {
		return nil, invalid("cluster size is too large")
	}
	h := &header{ext: true, heads: heads, cylinders: uint32(size / sectorSize / heads / sectors), tracks: uint32(cluster / sectorSize),
		entries: uint32(roundUp(size, cluster) / cluster), sectors: uint64(size / sectorSize)}
	h.dataStart = roundUp(h.tableEnd(), cluster)
	h.dataOff = uint32(h.dataStart / sectorSize)
	return h, nil
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// Create implements driver.Creator.
func (parallelsDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	h, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	// The table is in a hole where the file can have one.
	if r, ok := req.File.(driver.Resizer); ok && req.File.Traits().ZeroOnGrow && !req.File.Traits().FixedSize {
		err = r.Resize(ctx, h.dataStart, driver.ResizeOptions{})
	} else {
		err = clustertable.WriteZeroes(ctx, req.File, 0, h.dataStart)
	}
	if err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, h.encode(), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// Measure implements driver.Measurer.
func (parallelsDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	h, err := plan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	data, err := blockmap.DataUnits(ctx, req, h.cluster())
	if err != nil {
		return nil, err
	}
	return &driver.Measured{Required: h.dataStart + data, FullyAllocated: h.dataStart + int64(h.entries)*h.cluster()}, nil
}
