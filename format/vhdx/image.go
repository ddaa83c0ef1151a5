package vhdx

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/blockmap"
)

// image is an open image. The mapping is that of package blockmap.
type image struct {
	*blockmap.Disk
	raw      driver.Storage // the file
	file     driver.Storage // with the log laid over it
	lay      *overlay       // nil if nothing must be
	log      *replayed
	meta     metadata
	bat      region         // changes with Resize only
	table    atomic.Int64   // where bat begins, for those who read
	reserved []driver.Range // of the file: log, regions, sector bitmaps
	name     string         // of the parent
	stable   int64          // length that the file had when it was opened, whole MiB

	mu       sync.Mutex // guards what follows, and the writing of headers and the log
	header   header
	current  int // which of the two
	session  guid
	sequence uint64 // of the last entry of the log
	logPos   int64  // where the next one goes
	replays  bool   // the log was written to the file, and Check has not told yet
	parent   *image
	linkage  guid // of the parent, as the file has it
}

func open(ctx context.Context, req *driver.OpenRequest) (_ *image, err error) {
	signature := make([]byte, len(fileSignature))
	if err := readAt(ctx, req.File, signature, 0); err != nil {
		return nil, err
	}
	if string(signature) != fileSignature {
		return nil, driver.Errorf(driver.ErrFormat, "image not in VHDX format")
	}
	h, at, err := readHeader(ctx, req.File)
	if err != nil {
		return nil, err
	}
	im := &image{raw: req.File, file: req.File, header: *h, current: at}
	if req.Access.Write && h.logLength == 0 {
		return nil, unsupported("the image has no log: it can be read only")
	}
	if im.log, err = findLog(ctx, req.File, h, req.Env.Budget); err != nil {
		return nil, err
	}
	if im.log != nil {
		defer func() {
			if err != nil || im.lay == nil {
				im.log.ring.release()
			}
		}()
		if err := im.replay(ctx, req); err != nil {
			return nil, err
		}
	}
	return im, im.describe(ctx, req)
}

// replay brings the log to the file, or lays it over the file.
func (im *image) replay(ctx context.Context, req *driver.OpenRequest) (err error) {
	if !req.Access.Write {
		im.lay, err = newOverlay(req.File, im.log)
		im.file = im.lay
		return err
	}
	if err := im.log.apply(ctx, req.File); err != nil {
		return err
	}
	im.replays = true
	h := im.header
	h.log = guid{}
	h.fileWrite = newGUID()
	return im.writeHeader(ctx, h)
}

// describe reads the tables and makes the mapping.
func (im *image) describe(ctx context.Context, req *driver.OpenRequest) error {
	all, bat, meta, err := readRegions(ctx, im.file, region{off: im.header.logOffset, length: im.header.logLength})
	if err != nil {
		return err
	}
	m, err := readMetadata(ctx, im.file, meta)
	if err != nil {
		return err
	}
	if need := m.entries() * 8; need > bat.length {
		return corrupt("the disk needs a table of %d bytes, and the region for it has %d", need, bat.length)
	}
	im.meta, im.bat, im.stable = *m, bat, req.File.Size()/mib*mib
	im.table.Store(bat.off)
	for _, r := range all {
		im.reserved = append(im.reserved, driver.Range{Offset: r.off, Length: r.length})
	}
	if m.diff {
		if im.name, err = m.locator.parent(); err != nil {
			return err
		}
		if req.Access.Write {
			if err := im.reserveBitmaps(ctx); err != nil {
				return err
			}
		}
	}
	if req.BackingGiven && !m.diff {
		return driver.Errorf(driver.ErrInvalid, "only a differencing disk has a backing file")
	}
	l := im.layout(m)
	l.Writable, l.Sequential = req.Access.Write, req.Sequential
	l.Backing = m.diff
	l.ZeroState = l.Backing
	h := blockmap.Hooks{FirstWrite: im.firstWrite, Link: im.link, Trimming: im.endLog, Closing: im.endLog}
	if m.diff {
		h.Sectors = im.sectors
	}
	im.Disk, err = blockmap.New(l, h, im.file, req.Env, m.size)
	return err
}

// layout describes an image.
func (im *image) layout(m *metadata) blockmap.Layout {
	regions, block, diff := im.reserved, m.block, m.diff
	l := blockmap.Layout{
		Noun: "block", Unit: block, Table: im.bat.off, Entries: m.entries(), Width: 8, Order: le,
		First: headerEnd, Align: mib, AtEnd: true, WholeUnits: true, AbsentZero: true, FreeUnits: !m.fixed, Recurse: m.fixed,
		Reserved: regions, Index: m.index,
		Decode: func(raw uint64) blockmap.Entry {
			e := blockmap.Entry{State: blockmap.Bad}
			switch state := raw & stateMask; {
			case state == blockAbsent, state == blockUndefined && !diff:
				e.State = blockmap.Absent
			case state == blockZero, state == blockUnmapped, state == blockUndefined:
				e.State = blockmap.Zero
			case state == blockFull || state == blockPartial && diff:
				host := int64(min(raw&^(mib-1), 1<<62))
				for _, r := range regions {
					if host < r.Offset+r.Length && r.Offset < host+block {
						return e
					}
				}
				e = blockmap.Entry{State: blockmap.Data, Host: host, Partial: state == blockPartial}
			}
			return e
		},
		Encode: func(e blockmap.Entry) uint64 {
			switch {
			case e.State == blockmap.Data && e.Partial:
				return uint64(e.Host) | blockPartial
			case e.State == blockmap.Data:
				return uint64(e.Host) | blockFull
			case e.State == blockmap.Absent && diff:
				return blockAbsent
			}
			return blockZero // what is absent could read as anything
		},
	}
	return l
}

// bitmapAt returns where the sector bitmap block of a chunk lies, 0 if there is none.
func (im *image) bitmapAt(ctx context.Context, chunk int64) (int64, error) {
	b := make([]byte, 8)
	ratio := im.meta.ratio()
	if err := readAt(ctx, im.file, b, im.table.Load()+(chunk*(ratio+1)+ratio)*8); err != nil {
		return 0, err
	}
	raw := le.Uint64(b)
	if raw&stateMask != bitmapPresent {
		return 0, nil
	}
	off := int64(min(raw&^(mib-1), 1<<62))
	if off < headerEnd || off > im.file.Size()-mib {
		return 0, corrupt("the sector bitmap of chunk %d is said to be at offset %d, where none can be", chunk, off)
	}
	return off, nil
}

// reserveBitmaps keeps the places of the sector bitmaps.
func (im *image) reserveBitmaps(ctx context.Context) error {
	for chunk := range roundUp(im.meta.blocks(), im.meta.ratio()) / im.meta.ratio() {
		off, err := im.bitmapAt(ctx, chunk)
		if err != nil {
			return err
		}
		if off != 0 {
			im.reserved = append(im.reserved, driver.Range{Offset: off, Length: mib})
		}
	}
	return nil
}

// sectors is the hook of package blockmap. The bits of a block lie one behind the other,
// the least significant bit of a byte first, one for each logical sector (2.5.1.2).
func (im *image) sectors(ctx context.Context, block, _ int64) ([]byte, error) {
	m := &im.meta
	off, err := im.bitmapAt(ctx, block/m.ratio())
	if err != nil {
		return nil, err
	}
	if off == 0 {
		return nil, corrupt("block %d has a part of its sectors, and no bitmap tells which", block)
	}
	n := m.block / m.logical / 8
	b := make([]byte, n)
	if err := readAt(ctx, im.file, b, off+block%m.ratio()*n); err != nil {
		return nil, err
	}
	out := make([]byte, 0, m.block/sectorSize/8)
	for _, v := range b {
		for i := range 8 {
			bit := v >> i & 1
			if m.logical == 4096 {
				out = append(out, 0xff*bit)
			} else if i == 0 {
				out = append(out, bit<<7)
			} else {
				out[len(out)-1] |= bit << (7 - i)
			}
		}
	}
	return out, nil
}

// Map implements driver.Format.
func (im *image) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	x, err := im.Disk.Map(ctx, off, n)
	if im.lay != nil && x.Kind == driver.ExtentData && !im.lay.touches(x.HostOffset, x.Length) {
		x.Child = im.raw
	}
	return x, err
}

// ReadEncoded implements driver.Format: nothing is.
func (im *image) ReadEncoded(context.Context, []byte, int64) error {
	return unsupported("VHDX images have no encoded blocks")
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits {
	return driver.Traits{ZeroInit: !im.meta.fixed || im.raw.Traits().ZeroInit}
}

// State implements driver.Stater.
func (im *image) State(context.Context) (*driver.State, error) {
	s := &driver.State{Dirty: im.lay != nil}
	if im.name != "" {
		s.Backing = &driver.BackingRef{Filename: im.name, Format: "vhdx"}
	}
	return s, nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	return &driver.Info{ClusterSize: im.meta.block}, nil
}

// Close implements driver.Node.
func (im *image) Close(ctx context.Context) error {
	failed := im.followParent(ctx)
	if im.lay != nil {
		im.log.ring.release()
	}
	if err := im.Disk.Close(ctx); err != nil {
		return err
	}
	return failed
}
