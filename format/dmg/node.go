package dmg

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/chunks"
)

// node is an open image with a trailer. Only its caches change after Open.
type node struct {
	trailer   *trailer
	file      driver.Storage // with the trailer, decrypted
	encrypted bool
	size      int64
	runs      runs
	data      *data
	chunks    *chunks.Reader
	codecs    codecs
}

var (
	_ driver.Format  = (*node)(nil)
	_ driver.Checker = (*node)(nil)
)

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size }

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits { return driver.Limits{RequestAlignment: sectorSize} }

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{FixedSize: true, Encrypted: n.encrypted}
}

// Flush implements driver.Node.
func (n *node) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.chunks.Close()
	n.runs.release()
	return nil
}

// Map implements driver.Format.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.size-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	first, err := n.one(off, length)
	if err != nil {
		return first, err
	}
	for first.Length < length {
		next, err := n.one(off+first.Length, length-first.Length)
		// An error is that of the next extent, which will be asked for.
		if err != nil || next.Kind != first.Kind || next.Child != first.Child || next.HasOffset && next.HostOffset != first.HostOffset+first.Length {
			break
		}
		first.Length += next.Length
	}
	return first, nil
}

// one maps a range as far as it is in one run.
func (n *node) one(off, length int64) (driver.Extent, error) {
	r := n.runs.find(off / sectorSize)
	if r == nil {
		return driver.Extent{}, driver.Errorf(driver.ErrCorrupt, "no chunk holds sector %d", off/sectorSize)
	}
	in := off - r.sector*sectorSize
	x := driver.Extent{Length: min(length, r.count*sectorSize-in)}
	switch {
	case r.isZero():
		x.Kind = driver.ExtentZero
	case r.kind == typeRaw:
		p := n.data.at(r.pos + in)
		if p == nil {
			return x, driver.Errorf(driver.ErrCorrupt, "the data of sector %d should be at byte %d, but the data end before", off/sectorSize, r.pos+in)
		}
		x.Kind, x.Child, x.HasOffset = driver.ExtentData, p.file, true
		x.HostOffset = p.off + r.pos + in - p.pos
		x.Length = min(x.Length, p.pos+p.length-r.pos-in)
	default:
		x.Kind, x.Compressed = driver.ExtentEncoded, true
	}
	return x, nil
}

// ReadEncoded implements driver.Format.
func (n *node) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	return n.chunks.ReadAt(ctx, p, off, n.find)
}

func (n *node) find(_ context.Context, off int64) (chunks.Chunk, error) {
	r := n.runs.find(off / sectorSize)
	if r == nil || r.isZero() || r.kind == typeRaw {
		return chunks.Chunk{}, driver.Errorf(driver.ErrInvalid, "sector %d is not encoded", off/sectorSize)
	}
	return chunks.Chunk{Offset: r.sector * sectorSize, Length: r.count * sectorSize, File: n.data, Host: r.pos, Size: int64(r.length), Codec: r.kind}, nil
}

// plain is an image without a trailer: the disk itself.
type plain struct {
	file      driver.Storage
	encrypted bool
}

// Size implements driver.Node: whole sectors, as for raw disks.
func (n *plain) Size() int64 { return (n.file.Size() + sectorSize - 1) / sectorSize * sectorSize }

// Limits implements driver.Node.
func (n *plain) Limits() driver.Limits { return driver.Limits{RequestAlignment: sectorSize} }

// Traits implements driver.Node.
func (n *plain) Traits() driver.Traits {
	return driver.Traits{FixedSize: true, Encrypted: n.encrypted}
}

// Flush implements driver.Node.
func (n *plain) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (n *plain) Close(context.Context) error { return nil }

// Map implements driver.Format.
func (n *plain) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.Size()-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	if left := n.file.Size() - off; left > 0 {
		return driver.Extent{Length: min(length, left), Kind: driver.ExtentData, Child: n.file, HostOffset: off, HasOffset: true, Recurse: true}, nil
	}
	return driver.Extent{Length: length, Kind: driver.ExtentZero}, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *plain) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "the disk has no encoded extents")
}
