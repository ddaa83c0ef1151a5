package vpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"math"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

const (
	absent    = 0xffffffff // table entry
	dataAlign = 4096       // of new blocks
	// maxEntries is as many as QEMU takes.
	maxEntries = math.MaxInt32 / 4
)

// image is an open dynamic or differencing disk. The mapping is that of package
// blockmap.
type image struct {
	*blockmap.Disk
	file    driver.Storage
	force   string
	block   int64
	diff    bool
	parent  string // file name, relative to that of the image
	bitmap  int64  // length of sector bitmaps
	allHere []byte // a bitmap with all bits set

	mu      sync.Mutex // guards what follows, and the writing of footers
	footer  footer
	dyn     dynamic
	found   copies
	rewrote map[int64]struct{} // hosts of blocks whose bitmap is full
}

func openDynamic(ctx context.Context, req *driver.OpenRequest, c *copies, force string) (_ *image, err error) {
	size, err := c.diskSize(force)
	if err != nil {
		return nil, err
	}
	if c.data >= uint64(req.File.Size()) {
		return nil, corrupt("error reading dynamic VHD header")
	}
	b := make([]byte, dynamicSize)
	if err := readAt(ctx, req.File, b, int64(c.data)); err != nil {
		return nil, err
	}
	d, err := decodeDynamic(b)
	switch {
	case err != nil:
		return nil, err
	case uint64(d.entries)*uint64(d.block) < uint64(size):
		return nil, corrupt("page table too small")
	case d.entries > maxEntries:
		return nil, driver.Errorf(driver.ErrCorrupt, "max table entries too large (%d)", int32(d.entries))
	case d.table > uint64(req.File.Size()) || d.tableEnd() > req.File.Size():
		return nil, corrupt("error reading pagetable")
	}
	im := &image{file: req.File, force: force, block: int64(d.block), diff: c.diskType == typeDiff, bitmap: d.bitmap(), footer: *c.footer, dyn: *d, found: *c,
		rewrote: map[int64]struct{}{}}
	im.allHere = bytes.Repeat([]byte{0xff}, int(im.bitmap))
	if im.diff {
		if im.parent, err = parentName(ctx, req.File, d); err != nil {
			return nil, err
		}
	}
	l := im.layout(d)
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	l.Backing = im.diff || req.BackingGiven
	h := blockmap.Hooks{Linking: im.writeTrailer, NewUnit: im.newBlock, Rewrite: im.fillBitmap, Closing: im.closing}
	if im.diff {
		h.Sectors, h.Rewrite = im.sectors, nil
	}
	im.Disk, err = blockmap.New(l, h, req.File, req.Env, size)
	if err != nil {
		return nil, err
	}
	return im, nil
}

// layout describes an image.
func (im *image) layout(d *dynamic) blockmap.Layout {
	bitmap := d.bitmap()
	return blockmap.Layout{
		Noun: "block", Unit: int64(d.block), Table: int64(d.table), Entries: int64(d.entries), Width: 4, Order: binary.BigEndian,
		First: roundUp(d.tableEnd(), dataAlign), Lowest: footerSize, Align: dataAlign, Grain: sectorSize, Prefix: bitmap, Trailer: footerSize,
		Limit: absent*sectorSize + bitmap, AbsentZero: true,
		Reserved: im.reservedBy(d, im.file.Size()),
		Decode: func(raw uint64) blockmap.Entry {
			if raw == absent {
				return blockmap.Entry{}
			}
			return blockmap.Entry{State: blockmap.Data, Host: int64(raw)*sectorSize + bitmap, Partial: im.diff}
		},
		Encode: func(e blockmap.Entry) uint64 {
			if e.State == blockmap.Data {
				return uint64((e.Host - bitmap) / sectorSize)
			}
			return absent
		},
	}
}

// newBlock writes the bitmap of a new block: all of it is there.
func (im *image) newBlock(ctx context.Context, host int64) error {
	_, err := im.file.WriteAt(ctx, im.allHere, host-im.bitmap)
	return err
}

// fillBitmap makes sure that the bitmap of a block says that all of it is there: other
// programs leave bits out for zeroes.
func (im *image) fillBitmap(ctx context.Context, host int64) error {
	im.mu.Lock()
	_, done := im.rewrote[host]
	im.mu.Unlock()
	if done {
		return nil
	}
	b := make([]byte, im.bitmap)
	if err := readAt(ctx, im.file, b, host-im.bitmap); err != nil {
		return err
	}
	if !bytes.Equal(b, im.allHere) {
		if err := im.newBlock(ctx, host); err != nil {
			return err
		}
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	if len(im.rewrote) > 1<<16 {
		clear(im.rewrote)
	}
	im.rewrote[host] = struct{}{}
	return nil
}

// sectors returns the bitmap of a block, nil if all of it is there.
func (im *image) sectors(ctx context.Context, _, host int64) ([]byte, error) {
	b := make([]byte, im.bitmap)
	if err := readAt(ctx, im.file, b, host-im.bitmap); err != nil {
		return nil, err
	}
	n := im.block / sectorSize
	if full := n / 8; bytes.Equal(b[:full], im.allHere[:full]) && (n%8 == 0 || b[full]>>(8-n%8) == 0xff>>(8-n%8)) {
		return nil, nil
	}
	return b, nil
}

// writeTrailer writes the footer behind the last block.
func (im *image) writeTrailer(ctx context.Context, end int64) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	return im.writeFooter(ctx, end)
}

// writeFooter writes the footer at off. mu is held.
func (im *image) writeFooter(ctx context.Context, off int64) error {
	_, err := im.file.WriteAt(ctx, im.footer.encode(), off)
	return err
}

// closing puts the footer behind the last block, which may lie before where it was.
func (im *image) closing(ctx context.Context) error {
	end := im.End()
	if end == 0 {
		return nil
	}
	if err := im.writeTrailer(ctx, end); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}

// ReadEncoded implements driver.Format: nothing is.
func (im *image) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "VHD images have no encoded blocks")
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits { return driver.Traits{ZeroInit: true} }

// State implements driver.Stater.
func (im *image) State(context.Context) (*driver.State, error) {
	s := &driver.State{}
	if im.parent != "" {
		s.Backing = &driver.BackingRef{Filename: im.parent, Format: "vpc"}
	}
	return s, nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.block}, nil
}

// Resize implements driver.Resizer. The footer in front takes effect with one write; a
// table that is too long for the disk does no harm.
func (im *image) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	im.mu.Lock()
	old, d := im.footer, im.dyn
	im.mu.Unlock()
	f, size, err := resized(&old, size, im.force, opt)
	if err != nil {
		return err
	}
	if now := im.Size(); size < now {
		if end := min(roundUp(size, im.block), now); end > size {
			if err := im.ZeroData(ctx, size, end-size); err != nil {
				return err
			}
		}
		if err := im.Truncate(ctx, size); err != nil {
			return err
		}
	} else if err := im.growTable(ctx, &d, uint32(roundUp(size, im.block)/im.block)); err != nil {
		return err
	}
	im.mu.Lock()
	im.footer, im.dyn = *f, d
	err = im.writeFooter(ctx, 0)
	im.mu.Unlock()
	if err == nil {
		err = im.file.Flush(ctx)
	}
	if err == nil {
		err = im.Resized(im.layout(&d), size)
	}
	if err == nil {
		err = im.Trim(ctx) // so that Close writes the footer at the end
	}
	return err
}

// growTable gives the table n entries at least. Blocks that are in the way move to the
// end, and what names the parent to behind the table.
func (im *image) growTable(ctx context.Context, d *dynamic, n uint32) error {
	if err := im.Prepare(ctx); err != nil || n <= d.entries {
		return err
	}
	before, grown := d.tableEnd(), *d
	grown.entries = n
	names, from, to := im.inWay(d, roundUp(grown.tableEnd(), sectorSize))
	if err := im.Vacate(ctx, to+im.bitmap); err != nil {
		return err
	}
	if len(names) > 0 {
		if err := im.moveLocators(ctx, d, names, from); err != nil {
			return err
		}
	}
	d.entries = n
	fill := bytes.Repeat([]byte{0xff}, 64<<10)
	for off, end := before, roundUp(d.tableEnd(), sectorSize); off < end; off += int64(len(fill)) {
		if _, err := im.file.WriteAt(ctx, fill[:min(int64(len(fill)), end-off)], off); err != nil {
			return err
		}
	}
	return im.writeDynamic(ctx, d)
}
