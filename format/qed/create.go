package qed

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
	"github.com/cowl-disk/cowl/internal/clustertable"
	"github.com/cowl-disk/cowl/opts"
)

// plan returns the header of a new image for options and a size.
func plan(d opts.Dict, size int64) (*header, *createOptions, error) {
	var o createOptions
	if err := desc.CreateOptions.Decode(d, &o); err != nil {
		return nil, nil, err
	}
	h := &header{cluster: o.ClusterSize, table: defaultTable, headerClusters: 1}
	if o.TableSize != nil {
		h.table = *o.TableSize
	}
	h.size = (uint64(max(size, o.Size)) + sectorSize - 1) &^ (sectorSize - 1)
	switch {
	case !validCluster(h.cluster):
		return nil, nil, invalid("QED cluster size must be within range [%d, %d] and power of 2", minCluster, maxCluster)
	case !validTable(h.table):
		return nil, nil, invalid("QED table size must be within range [%d, %d] and power of 2", minTable, maxTable)
	case !validSize(h.size, h.cluster, h.table):
		return nil, nil, invalid("QED image size must be a non-zero multiple of cluster size and less than %d bytes", maxSize(h.cluster, h.table))
	case len(o.BackingFile) > maxBackingName:
		return nil, nil, invalid("backing file name too long")
	}
	h.l1 = uint64(h.cluster)
	if o.BackingFile != "" {
		h.features |= featureBacking
		h.backingOff, h.backLen = headerSize, uint32(len(o.BackingFile))
		if o.BackingFormat == "raw" {
			h.features |= featureNoProbe
		}
	}
	return h, &o, nil
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// Create implements driver.Creator.
func (qedDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	h, o, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	// The length of the file says which clusters are in use: on a device all are.
	if req.File.Traits().FixedSize {
		return driver.Errorf(driver.ErrUnsupported, "a QED image cannot lie on a device, whose length is fixed")
	}
	if err := clustertable.WriteZeroes(ctx, req.File, int64(h.l1), h.tableBytes()); err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, append(h.encode(), o.BackingFile...), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// Measure implements driver.Measurer.
func (qedDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	h, o, err := plan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	empty := int64(h.l1) + h.tableBytes()
	units := roundUp(int64(h.size), h.cluster) / h.cluster
	full := empty + units*h.cluster + roundUp(units, h.entries())/h.entries()*h.tableBytes()
	m := &driver.Measured{Required: full, FullyAllocated: full}
	if o.BackingFile != "" && req.Source != nil {
		return m, nil // nothing says how much of the source the backing file has
	}
	data, err := blockmap.DataUnits(ctx, req, h.cluster)
	if err != nil {
		return nil, err
	}
	tables, err := blockmap.DataUnits(ctx, req, h.cluster*h.entries())
	if err != nil {
		return nil, err
	}
	m.Required = empty + data + tables/(h.cluster*h.entries())*h.tableBytes()
	return m, nil
}
