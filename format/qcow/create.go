package qcow

import (
	"context"
	"math"

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
	size = max(size, o.Size)
	h := &header{clusterBits: 12, l2Bits: 9, size: (uint64(size) + sectorSize - 1) &^ (sectorSize - 1)}
	switch {
	case size == 0:
		return nil, nil, invalid("image size is too small, cannot be zero length")
	case o.EncryptFormat != nil && o.Encryption != nil && *o.Encryption:
		return nil, nil, invalid("'encrypt.format' and its alias 'encryption' can't be used at the same time")
	case o.EncryptFormat != nil && *o.EncryptFormat != "aes":
		return nil, nil, invalid("unsupported encryption format")
	case o.EncryptFormat != nil || o.Encryption != nil && *o.Encryption:
		h.crypt = cryptAES
	case o.KeySecret != nil:
		return nil, nil, invalid("parameter 'encrypt.format' is missing")
	case len(o.BackingFile) > maxBackingName:
		return nil, nil, invalid("backing file name too long")
	}
	end := int64(headerSize)
	if o.BackingFile != "" {
		h.clusterBits, h.l2Bits = 9, 12 // so that what is copied is no more than what is written
		h.backingOff, h.backingLen = headerSize, uint32(len(o.BackingFile))
		end += int64(len(o.BackingFile))
	}
	h.l1 = uint64(roundUp(end, 8))
	if h.derive(); h.size > math.MaxInt64 || h.l1Size > maxL1 {
		return nil, nil, invalid("image too large") // QEMU makes such images, and does not open them
	}
	return h, &o, nil
}

// Create implements driver.Creator.
func (qcowDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	h, o, err := plan(req.Options, req.Size)
	if err != nil {
		return err
	}
	if h.crypt == cryptAES {
		id := ""
		if o.KeySecret != nil {
			id = *o.KeySecret
		}
		if _, err := newCipher(req.Env.Objects, id); err != nil {
			return err
		}
	}
	end := int64(h.l1) + roundUp(h.l1Size*8, sectorSize)
	// The table is in a hole where the file can have one.
	if r, ok := req.File.(driver.Resizer); ok && req.File.Traits().ZeroOnGrow && !req.File.Traits().FixedSize {
		err = r.Resize(ctx, end, driver.ResizeOptions{})
	} else {
		err = clustertable.WriteZeroes(ctx, req.File, 0, end)
	}
	if err != nil {
		return err
	}
	if _, err := req.File.WriteAt(ctx, append(h.encode(), o.BackingFile...), 0); err != nil {
		return err
	}
	return req.File.Flush(ctx)
}

// Measure implements driver.Measurer.
func (qcowDriver) Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	h, o, err := plan(req.Options, req.Size)
	if err != nil {
		return nil, err
	}
	empty := int64(h.l1) + roundUp(h.l1Size*8, sectorSize)
	start := roundUp(empty, h.cluster)
	full := start + roundUp(int64(h.size), h.cluster) + h.l1Size*h.tables
	m := &driver.Measured{Required: full, FullyAllocated: full}
	if o.BackingFile != "" && req.Source != nil {
		return m, nil // nothing says how much of the source the backing file has
	}
	data, err := blockmap.DataUnits(ctx, req, h.cluster)
	if err != nil {
		return nil, err
	}
	per := h.cluster << h.l2Bits
	tables, err := blockmap.DataUnits(ctx, req, per)
	if err != nil {
		return nil, err
	}
	if m.Required = empty; data > 0 {
		m.Required = start + data + tables/per*h.tables
	}
	return m, nil
}
