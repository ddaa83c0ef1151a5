package raw

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// sectorSize is the unit that sizes of disks are rounded to.
const sectorSize = 512

type openOptions struct {
	Offset int64  `opt:"offset" type:"size" help:"offset in the disk where the image starts"`
	Size   *int64 `opt:"size" type:"size" help:"virtual disk size"`
}

// createOptions has nothing of the format's own: preallocation and the like are
// the protocol's.
type createOptions struct {
	Size int64 `opt:"size" type:"size" help:"Virtual disk size"`
}

var desc = driver.Desc{
	Name:          "raw",
	Kind:          driver.KindFormat,
	Children:      []driver.ChildDesc{{Role: "file", Use: driver.UseFiltered}},
	Fallback:      true,
	Summary:       "Plain bytes, without a header",
	OpenOptions:   opts.SchemaOf(openOptions{}),
	CreateOptions: opts.SchemaOf(createOptions{}),
}

type rawDriver struct{}

// New returns the driver "raw".
func New() driver.Driver { return rawDriver{} }

var (
	_ driver.Prober   = rawDriver{}
	_ driver.Creator  = rawDriver{}
	_ driver.Measurer = rawDriver{}
)

// Desc implements driver.Driver.
func (rawDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober: everything is raw if it is nothing better.
func (rawDriver) Probe([]byte, int64, string) int { return 1 }

// Open implements driver.Driver.
func (rawDriver) Open(_ context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	fileSize := roundUp(req.File.Size())
	if o.Offset > fileSize {
		return nil, driver.Errorf(driver.ErrInvalid,
			"offset (%d) cannot be greater than size of the containing file (%d)", o.Offset, fileSize)
	}
	n := &node{file: req.File, offset: o.Offset, limit: -1, write: req.Access.Write}
	if o.Size != nil {
		if *o.Size > fileSize-o.Offset {
			return nil, driver.Errorf(driver.ErrInvalid,
				"the sum of offset (%d) and size (%d) has to be smaller or equal to the  actual size of the containing file (%d)",
				o.Offset, *o.Size, fileSize)
		}
		// Rounding such a size up would reach beyond the selected part.
		if *o.Size%sectorSize != 0 {
			return nil, driver.Errorf(driver.ErrInvalid, "specified size is not multiple of %d", sectorSize)
		}
		n.limit = *o.Size
	}
	return n, nil
}

// roundUp rounds a length up to whole sectors, except where int64 ends.
func roundUp(n int64) int64 {
	if n > math.MaxInt64-sectorSize {
		return n
	}
	return (n + sectorSize - 1) / sectorSize * sectorSize
}
