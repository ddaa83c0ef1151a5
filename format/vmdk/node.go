package vmdk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// node is an open image.
type node struct {
	file    driver.Storage
	desc    *descriptor
	extents []*extent
	size    atomic.Int64 // changes with Resize only
	write   bool
	descOff int64 // of the text of the descriptor in file
	descLen int64

	mu         sync.Mutex
	cid        uint32 // guarded by mu, as all below
	cidWritten bool
	parentErr  error // why the parent cannot be read
	parent     identified
}

var (
	_ driver.Allocator  = (*writable)(nil)
	_ driver.ZeroWriter = (*writable)(nil)
	_ driver.Compressor = (*writable)(nil)
	_ driver.Describer  = (*node)(nil)
	_ driver.Stater     = (*node)(nil)
	_ driver.Checker    = (*node)(nil)

	_ driver.ParentChecker = (*node)(nil)
)

// writable is an image whose extents can be written at any place.
type writable struct{ *node }

// Encode implements driver.Compressor: nothing is smaller, so that grains are written
// as they are, as QEMU does.
func (writable) Encode(dst, _ []byte) ([]byte, bool, error) { return dst, false, nil }

// WriteEncoded implements driver.Compressor; Encode never asks for it.
func (writable) WriteEncoded(context.Context, int64, []byte) error {
	return driver.Errorf(driver.ErrUnsupported, "only streamOptimized images have compressed grains")
}

// Size implements driver.Node.
func (n *node) Size() int64 { return n.size.Load() }

// sameGrain returns the size of the grains of all extents, 0 if they are not of one kind.
func (n *node) sameGrain() int64 {
	for _, x := range n.extents {
		if x.grain != n.extents[0].grain || x.flat() != n.extents[0].flat() || x.compressed != n.extents[0].compressed {
			return 0
		}
	}
	return n.extents[0].grain
}

// Limits implements driver.Node.
func (n *node) Limits() driver.Limits {
	l := driver.Limits{ClusterSize: n.sameGrain()}
	if l.ClusterSize > 0 && n.extents[0].zeroGrains {
		l.ZeroAlignment = l.ClusterSize
	}
	return l
}

// Traits implements driver.Node.
func (n *node) Traits() driver.Traits {
	t := driver.Traits{ZeroInit: true, FixedSize: true}
	for _, x := range n.extents {
		if x.flat() && !x.file.Traits().ZeroInit {
			t.ZeroInit = false
		}
	}
	return t
}

// State implements driver.Stater.
func (n *node) State(context.Context) (*driver.State, error) {
	s := &driver.State{}
	if n.desc.hint != "" {
		s.Backing = &driver.BackingRef{Filename: n.desc.hint, Format: "vmdk"}
	}
	return s, nil
}

// Info implements driver.Describer.
func (n *node) Info(context.Context) (*driver.Info, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	data := &qapi.InfoSpecificVmdk{CID: n.cid, ParentCID: n.desc.parentCID, CreateType: n.desc.createType, Extents: []qapi.VmdkExtentInfo{}}
	for _, x := range n.extents {
		e := qapi.VmdkExtentInfo{VirtualSize: x.size.Load(), Filename: x.name, Format: x.kind, ClusterSize: x.grain}
		if x.compressed {
			e.Compressed = &x.compressed
		}
		data.Extents = append(data.Extents, e)
	}
	return &driver.Info{ClusterSize: n.sameGrain(), Specific: &qapi.ImageInfoSpecific{Type: "vmdk", Data: data}}, nil
}

// find returns the extent that holds an offset of the disk.
func (n *node) find(off int64) *extent {
	i, found := slices.BinarySearchFunc(n.extents, off, func(x *extent, off int64) int {
		switch {
		case x.start > off:
			return 1
		case x.start < off:
			return -1
		}
		return 0
	})
	if !found {
		i--
	}
	return n.extents[i]
}

// Map implements driver.Format. What the parent answers for is an error if it is not
// the disk that this one was made on.
func (n *node) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if off >= n.Size() {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	x := n.find(off)
	e, err := x.mapRange(ctx, off-x.start, length)
	if err == nil && e.Kind == driver.ExtentUnallocated {
		n.mu.Lock()
		err = n.parentErr
		n.mu.Unlock()
	}
	return e, err
}

// ReadEncoded implements driver.Format.
func (n *node) ReadEncoded(ctx context.Context, p []byte, off int64) error {
	x := n.find(off)
	if x.chunks == nil {
		return driver.Errorf(driver.ErrInvalid, "the extent of offset %d is not compressed", off)
	}
	return x.chunks.ReadAt(ctx, p, off-x.start, x.findChunk)
}

// Allocate implements driver.Allocator.
func (n writable) Allocate(ctx context.Context, off, length int64) (driver.WriteTarget, error) {
	if off < 0 || length <= 0 || off >= n.Size() {
		return driver.WriteTarget{}, driver.Errorf(driver.ErrRange, "write of %d bytes at %d: beyond the end of the disk", length, off)
	}
	x := n.find(off)
	off -= x.start
	length = min(length, x.size.Load()-off)
	switch {
	case !n.write:
		return driver.WriteTarget{}, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	case x.access != accessRW || x.file == nil:
		return driver.WriteTarget{}, driver.Errorf(driver.ErrReadOnly, "the descriptor says that the extent at %d must not be written", x.start)
	case x.disk == nil:
		if err := n.firstWrite(ctx); err != nil {
			return driver.WriteTarget{}, err
		}
		return driver.WriteTarget{Length: length, Child: x.file, HostOffset: x.offset + off}, nil
	}
	t, err := x.disk.Allocate(ctx, off, length)
	if t.Child != nil {
		t.Child = x.file
	}
	if err == nil {
		x.events.Raise("write_aio")
	}
	return t, err
}

// WriteZeroes implements driver.ZeroWriter, by grains that read as zeroes if the image
// has such, and by the files of flat extents.
func (n writable) WriteZeroes(ctx context.Context, off, length int64, flags driver.ZeroFlags) error {
	for length > 0 && off < n.Size() {
		x := n.find(off)
		in := off - x.start
		part := min(length, x.size.Load()-in)
		if !n.write || x.access != accessRW || x.file == nil {
			return driver.Errorf(driver.ErrReadOnly, "the extent at %d cannot be written", x.start)
		}
		var err error
		switch {
		case x.disk == nil:
			z, ok := x.file.(driver.ZeroWriter)
			if !ok {
				return driver.ErrUnsupported
			}
			if err = n.firstWrite(ctx); err == nil {
				err = z.WriteZeroes(ctx, x.offset+in, part, flags)
			}
		case !x.zeroGrains || in%x.grain != 0 || part%x.grain != 0 && in+part != x.size.Load():
			return driver.ErrUnsupported
		default:
			err = x.disk.WriteZeroes(ctx, in, part, flags)
		}
		if err != nil {
			return err
		}
		off, length = off+part, length-part
	}
	return nil
}

// Flush implements driver.Node.
func (n *node) Flush(ctx context.Context) error {
	if !n.write {
		return nil
	}
	var failed error
	for _, x := range n.extents {
		switch {
		case x.disk != nil:
			failed = errors.Join(failed, x.disk.Flush(ctx))
		case x.file != nil && x.access == accessRW:
			failed = errors.Join(failed, x.file.Flush(ctx))
		}
	}
	n.mu.Lock()
	written := n.cidWritten
	n.mu.Unlock()
	if written {
		failed = errors.Join(failed, n.file.Flush(ctx))
	}
	return failed
}

// Close implements driver.Node.
func (n *node) Close(ctx context.Context) error {
	failed := n.followParent(ctx)
	for _, x := range n.extents {
		failed = errors.Join(failed, x.close(ctx))
	}
	return failed
}

func (x *extent) close(ctx context.Context) (err error) {
	if x.disk != nil {
		err = x.disk.Close(ctx)
	}
	if x.chunks != nil {
		x.chunks.Close()
	}
	x.twin.release()
	return err
}

// firstWrite gives the disk another content ID, which tells overlays that their parent
// has changed. It does so once after each opening.
func (n *node) firstWrite(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cidWritten {
		return nil
	}
	if err := n.writeCID(ctx); err != nil {
		return fmt.Errorf("cannot write another content ID: %w", err)
	}
	n.cidWritten = true
	return nil
}

// writeCID gives the image another content ID, of as many digits. mu is held.
func (n *node) writeCID(ctx context.Context) error {
	text, at, err := n.findID(ctx, "CID")
	if err != nil || at.length == 0 {
		return err
	}
	var b [4]byte
	_, _ = rand.Read(b[:])
	cid := cidLike(n.cid, at.length, le.Uint32(b[:]))
	if err := n.replaceID(ctx, text, at, cid); err != nil {
		return err
	}
	n.cid = cid
	return nil
}

// findID reads the descriptor and finds the digits of an ID. Without any, who wrote the
// descriptor did without.
func (n *node) findID(ctx context.Context, key string) ([]byte, place, error) {
	text := make([]byte, n.descLen)
	if m, err := n.file.ReadAt(ctx, text, n.descOff); int64(m) < n.descLen {
		return nil, place{}, err
	}
	at, _ := findCID(text, key)
	return text, at, nil
}

// replaceID writes the digits of an ID where others are, and all that is behind them if
// they are more.
func (n *node) replaceID(ctx context.Context, text []byte, at place, id uint32) error {
	p := []byte(fmt.Sprintf("%0*x", at.length, id))
	if more := len(p) - at.length; more > 0 {
		rest := text[at.off+at.length:]
		if n.descOff > 0 {
			// The room is what it is; behind the text there are zeroes.
			if len(rest) < more || len(bytes.Trim(rest[len(rest)-more:], "\x00")) > 0 {
				return driver.Errorf(driver.ErrUnsupported, "the descriptor has no room for %d more digits of a content ID", more)
			}
			rest = rest[:len(rest)-more]
		}
		p = append(p, rest...)
	}
	_, err := n.file.WriteAt(ctx, p, n.descOff+int64(at.off))
	return err
}

// followParent records the content ID that the parent has now, if it was changed by
// way of this image (commit). What others change is told when the image is opened.
func (n *node) followParent(ctx context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.write || n.parent == nil || n.parentErr != nil {
		return nil
	}
	cid := n.parent.CID()
	if cid == n.desc.parentCID {
		return nil
	}
	text, at, err := n.findID(ctx, "parentCID")
	if err != nil || at.length == 0 {
		return err
	}
	if err := n.replaceID(ctx, text, at, cid); err != nil {
		return err
	}
	n.desc.parentCID = cid
	return n.file.Flush(ctx)
}

// CID returns the content ID that the disk has now.
func (n *node) CID() uint32 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cid
}

// identified is an image that says which contents it has.
type identified interface{ CID() uint32 }

// CheckParent implements driver.ParentChecker. The image can be looked at whatever its
// parent is; what the parent holds of the disk can be read only if it is the right one. A
// wrong one is no fault of the image: it may be an option's, and QEMU's error is EINVAL, too.
func (n *node) CheckParent(_ context.Context, parent driver.Node) error {
	var err error
	switch p, ok := parent.(identified); {
	case !ok:
		err = driver.Errorf(driver.ErrInvalid, "the parent of the image is not in VMDK format, and so has no content ID")
	case n.desc.parentCID == noParent:
		err = driver.Errorf(driver.ErrInvalid, "the image was made without a parent, and none can be given to it")
	case p.CID() != n.desc.parentCID:
		err = driver.Errorf(driver.ErrInvalid, "the parent has been modified since the image was made on it: its content ID is %08x, not %08x", p.CID(), n.desc.parentCID)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.parentErr = err
	n.parent, _ = parent.(identified)
	return nil
}
