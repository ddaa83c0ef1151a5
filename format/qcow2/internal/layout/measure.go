package layout

import (
	"context"
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// Measure tells how large an image file becomes: Required with the data that
// req.Source knows of, FullyAllocated with every cluster in use. Without a
// source only metadata is required, unless preallocation asks for more. If a
// backing file is named, nothing says how much of the source it holds, and all
// of the disk is required.
//
// Bitmaps is zero for sources that could have bitmaps to copy and nil for new
// images; the caller, who knows the source, adds to it or clears it.
func Measure(ctx context.Context, req *driver.MeasureRequest) (*driver.Measured, error) {
	p, err := decodeCreate(req.Options, req.Size)
	if errors.Is(err, errL1TooLarge) {
		return nil, driver.Errorf(driver.ErrInvalid, "the image size is too large (try using a larger cluster size)")
	}
	if err != nil {
		return nil, err
	}
	if p.crypt == ondisk.CryptLUKS {
		if _, err := p.secret(req.Objects); err != nil {
			return nil, err
		}
	}
	cs := int64(1) << p.clusterBits
	size := tableio.AlignUp(p.size, cs)
	var data int64
	switch {
	case p.prealloc == driver.PreallocFalloc || p.prealloc == driver.PreallocFull:
		data = size
	case req.Source == nil:
	case p.backing != "":
		data = size
	default:
		if data, err = allocatedBytes(ctx, req, cs); err != nil {
			return nil, err
		}
	}
	header, err := p.cryptoSize()
	if err != nil {
		return nil, err
	}
	full := fullSize(size, cs, p.entrySize(), p.refcountOrder) + header
	return &driver.Measured{Required: full - size + data, FullyAllocated: full}, nil
}

// allocatedBytes sums the clusters of a source that hold data.
func allocatedBytes(ctx context.Context, req *driver.MeasureRequest, clusterSize int64) (int64, error) {
	var sum int64
	for off := int64(0); off < req.Size; {
		e, err := req.Source(ctx, off, req.Size-off)
		if err != nil {
			return 0, err
		}
		n := e.Length
		switch e.Kind {
		case driver.ExtentEOF:
			return sum, nil
		case driver.ExtentData, driver.ExtentEncoded:
			// All of the last cluster is needed, whatever the rest of it is.
			n = tableio.AlignUp(off+n, clusterSize) - off
			sum += off%clusterSize + n
		}
		if n <= 0 {
			return 0, driver.Errorf(driver.ErrInvalid, "the source does not report what is at offset %d", off)
		}
		off += n
	}
	return sum, nil
}

// fullSize returns the length of an image file in which size bytes of guest
// data, a multiple of the cluster size, are all allocated.
func fullSize(size, clusterSize, entrySize int64, refcountOrder uint32) int64 {
	l2 := tableio.AlignUp(size/clusterSize*entrySize, clusterSize)
	l1 := tableio.AlignUp(l2/clusterSize*8, clusterSize)
	other := clusterSize + l2 + l1 + size
	blocks, table := refcountMetadata(other/clusterSize, clusterSize, refcountOrder, false)
	return other + (blocks+table)*clusterSize
}
