package luks

import (
	"context"
	"math"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/internal/cryptio"
	"github.com/cowl-disk/cowl/qapi"
)

// sectorSize is the unit that sizes of disks are rounded to.
const sectorSize = 512

// node is an open image. key and data are nil if it was opened for its metadata only.
type node struct {
	file    driver.Storage
	hdr     *luks.Header
	key     *luks.Key
	data    *cryptio.Storage
	write   bool
	objects driver.Objects
}

var (
	_ driver.Allocator = (*node)(nil)
	_ driver.Resizer   = (*node)(nil)
	_ driver.Amender   = (*node)(nil)
)

// roundUp rounds a length up to whole sectors, except where int64 ends.
func roundUp(n int64) int64 {
	if n > math.MaxInt64-sectorSize {
		return n
	}
	return (n + sectorSize - 1) / sectorSize * sectorSize
}

// Size implements driver.Node. It follows the size of the file. A last sector that is
// not whole counts, if sectors have 512 bytes: what the file lacks reads as encrypted
// zeroes.
func (n *node) Size() int64 {
	if n.hdr.PayloadSize >= 0 {
		return n.hdr.PayloadSize
	}
	left := max(roundUp(n.file.Size())-n.hdr.PayloadOffset, 0)
	return left &^ (int64(n.hdr.SectorSize) - 1)
}

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	l := n.file.Limits()
	l.ClusterSize, l.ZeroAlignment, l.DiscardAlignment = 0, 0, 0
	return l
}

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	return driver.Traits{Encrypted: true, FixedSize: n.hdr.PayloadSize >= 0}
}

// State implements driver.Stater: the header knows no such marks.
func (*node) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	info := n.hdr.Info()
	info.DetachedHeader = n.hdr.PayloadOffset == 0
	return &driver.Info{Specific: &qapi.ImageInfoSpecific{Type: "luks", Data: info}}, nil
}

// Flush implements driver.Node. All metadata is durable when it is changed: it
// flushes the file.
func (n *node) Flush(ctx context.Context) error {
	if !n.write {
		return nil
	}
	return n.file.Flush(ctx)
}

// Close implements driver.Node.
func (n *node) Close(context.Context) error {
	n.key.Wipe()
	return nil
}

func (n *node) check(off, length int64) error {
	switch {
	case n.data == nil:
		return driver.Errorf(driver.ErrInvalid, "the image was opened without its key")
	case off < 0 || length < 0 || off > math.MaxInt64-length || off+length > math.MaxInt64-n.hdr.PayloadOffset:
		return driver.Errorf(driver.ErrInvalid, "impossible range: %d bytes at %d", length, off)
	}
	return nil
}

// Map implements driver.Format. The position of the bytes in the file is not
// reported: they are encrypted there.
func (n *node) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, n.Size()-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	if err := n.check(off, length); err != nil {
		return driver.Extent{}, err
	}
	return driver.Extent{Length: length, Kind: driver.ExtentData, Child: n.data, HostOffset: n.hdr.PayloadOffset + off}, nil
}

// ReadEncoded implements driver.Format; Map never asks for it.
func (n *node) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrInvalid, "LUKS images have no encoded extents")
}

// Allocate implements driver.Allocator: every byte has its place.
func (n *node) Allocate(_ context.Context, off, length int64) (driver.WriteTarget, error) {
	if !n.write {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrReadOnly, "the image is read-only")
	}
	if err := n.check(off, length); err != nil {
		return driver.WriteTarget{}, err
	}
	if length > n.Size()-off {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrRange, "%d bytes at %d are beyond the end of the disk", length, off)
	}
	return driver.WriteTarget{Length: length, Child: n.data, HostOffset: n.hdr.PayloadOffset + off}, nil
}

// Resize implements driver.Resizer: the file is resized. New bytes read as anything.
func (n *node) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	switch {
	case !n.write:
		return driver.Errorf(driver.ErrReadOnly, "the image is read-only")
	case n.hdr.PayloadSize >= 0:
		return driver.Errorf(driver.ErrUnsupported, "the header gives the payload a fixed size: it cannot be resized")
	case size < 0 || size > math.MaxInt64-n.hdr.PayloadOffset-int64(n.hdr.SectorSize):
		return driver.Errorf(driver.ErrInvalid, "the requested file size is too large")
	}
	if unit := int64(n.hdr.SectorSize); unit > sectorSize {
		size = (size + unit - 1) &^ (unit - 1)
	}
	r, ok := n.file.(driver.Resizer)
	if !ok {
		return driver.Errorf(driver.ErrUnsupported, "image format driver does not support resize")
	}
	opt.HideBacking = 0
	return r.Resize(ctx, n.hdr.PayloadOffset+size, opt)
}
