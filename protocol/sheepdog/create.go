package sheepdog

import (
	"context"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/sheepdog"
)

const sectorSize = 512

// createOptions are the options of new VDIs.
type createOptions struct {
	BackingFile   *string `opt:"backing_file" help:"File name of the snapshot that the VDI is a clone of"`
	Preallocation string  `opt:"preallocation" help:"Preallocation mode (allowed values: off, full)"`
	Redundancy    *string `opt:"redundancy" help:"Redundancy: number of copies, or DATA:PARITY strips"`
	ObjectSize    *int64  `opt:"object_size" type:"size" help:"Size of the objects (default: that of the cluster)"`
}

var createSchema = opts.SchemaOf(createOptions{})

// parseRedundancy reads COPIES or DATA:PARITY.
func parseRedundancy(text string) (r sheepdog.Redundancy, err error) {
	bad := invalid("invalid redundancy mode")
	first, second, strips := strings.Cut(text, ":")
	if r.Copies, err = strconv.Atoi(first); err != nil || r.Copies < 1 {
		return r, bad
	}
	if strips {
		if r.Parity, err = strconv.Atoi(second); err != nil || r.Parity < 1 {
			return r, bad
		}
	}
	if !r.Valid() {
		return r, bad
	}
	return r, nil
}

// Create implements driver.Creator. There must be no VDI of the name.
func (sheepdogDriver) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	var co createOptions
	if err := createSchema.Decode(req.Options, &co); err != nil {
		return err
	}
	given, err := parseName(req.Filename)
	if err != nil {
		return err
	}
	o, err := decode(given)
	if err != nil {
		return err
	}
	n := sheepdog.New{Name: o.VDI, Size: (req.Size + sectorSize - 1) / sectorSize * sectorSize}
	switch mode := driver.Prealloc(co.Preallocation); {
	case req.Size < 0 || req.Size > math.MaxInt64-sectorSize:
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	case o.SnapID != nil || o.Tag != nil:
		return invalid("a snapshot cannot be created by its name '%s'", req.Filename)
	case mode == driver.PreallocMetadata || mode == driver.PreallocFalloc:
		return driver.Errorf(driver.ErrUnsupported, "preallocation mode not supported for Sheepdog")
	case mode != "" && mode != driver.PreallocOff && mode != driver.PreallocFull:
		return invalid("parameter '%s' does not accept value '%s'", "preallocation", co.Preallocation)
	}
	if co.Redundancy != nil {
		if n.Redundancy, err = parseRedundancy(*co.Redundancy); err != nil {
			return err
		}
	}
	if size := co.ObjectSize; size != nil && *size != 0 {
		if *size < 1<<sheepdog.MinShift || *size > 1<<sheepdog.MaxShift || *size&(*size-1) != 0 {
			return invalid("invalid object_size: it is a power of 2 from 2^%d to 2^%d", sheepdog.MinShift, sheepdog.MaxShift)
		}
		n.Shift = uint8(bits.TrailingZeros64(uint64(*size)))
	}
	if co.BackingFile != nil {
		if err := base(ctx, *co.BackingFile, &n); err != nil {
			return err
		}
	}
	return o.create(ctx, n, driver.Prealloc(co.Preallocation) == driver.PreallocFull, req.Made)
}

// base finds what a VDI is to be a clone of. The objects of both have one size.
func base(ctx context.Context, name string, n *sheepdog.New) error {
	given, err := parseName(name)
	if err != nil {
		return invalid("backing_file must be a sheepdog image")
	}
	o, err := decode(given)
	if err != nil {
		return err
	}
	b, err := open(ctx, o, driver.Access{NoLock: true})
	if err != nil {
		return err
	}
	defer b.Close(ctx)
	if !b.v.IsSnapshot() {
		return invalid("cannot clone from a non snapshot vdi")
	}
	shift := uint8(bits.TrailingZeros64(uint64(b.v.ObjectSize())))
	if n.Shift != 0 && n.Shift != shift {
		return invalid("a clone has objects of the size that its base has: 2^%d bytes, not 2^%d", shift, n.Shift)
	}
	n.Base, n.Shift = b.v.Number(), shift
	return nil
}

func (o *openOptions) create(ctx context.Context, n sheepdog.New, full bool, made *bool) error {
	c, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	shift := n.Shift
	if shift == 0 {
		if shift, err = c.ObjectShift(ctx); err != nil {
			return failed(ctx, err, "cannot ask for the defaults of the cluster: %w")
		}
	}
	if most := int64(sheepdog.MaxObjects) << shift; n.Size > most {
		return driver.Errorf(driver.ErrInvalid, "an image is too large: the maximum image size is %dGB", most>>30)
	}
	if err := c.Create(ctx, n); err != nil {
		var refused sheepdog.Result
		if errors.As(err, &refused) && ctx.Err() == nil {
			return driver.Errorf(kindOf(err), "%s, %s", refused.Error(), n.Name)
		}
		return failed(ctx, err, "cannot create VDI: %w")
	}
	if full {
		err = o.fill(ctx)
	}
	remains := true
	if err != nil {
		last, cancel := driver.Farewell(ctx, driver.UndoingTime)
		remains = c.Delete(last, n.Name, 0, "") != nil
		cancel()
	}
	if made != nil {
		*made = remains
	}
	return err
}

func failed(ctx context.Context, err error, format string) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return driver.Errorf(kindOf(err), format, err)
}

// fillStep is how much is read and written at a time, in bytes.
const fillStep = 4 << 20

// fill gives a new VDI all objects of its own, also those that it shares.
func (o *openOptions) fill(ctx context.Context) (err error) {
	n, err := open(ctx, o, driver.Access{Write: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, n.Close(ctx)) }()
	p := make([]byte, fillStep)
	for off := int64(0); off < n.Size(); off += fillStep {
		p = p[:min(fillStep, n.Size()-off)]
		if err := n.v.ReadAt(ctx, p, off); err != nil {
			return failed(ctx, err, "can't pre-allocate: %w")
		}
		if err := n.v.WriteAt(ctx, p, off); err != nil {
			return failed(ctx, err, "can't pre-allocate: %w")
		}
	}
	return nil
}

// Delete implements driver.Deleter.
func (sheepdogDriver) Delete(ctx context.Context, filename string) error {
	given, err := parseName(filename)
	if err != nil {
		return err
	}
	o, err := decode(given)
	if err != nil {
		return err
	}
	c, err := o.connect(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	to := o.open()
	if err := c.Delete(ctx, to.Name, to.Snapshot, to.Tag); err != nil {
		return failed(ctx, err, "cannot delete VDI: %w")
	}
	return nil
}
