package vmdk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/safeio"
	"github.com/cowl-disk/cowl/opts"
)

// createTypes are the types whose extents are read here. Other names of them are
// those of VMware's own tools.
var createTypes = sync.OnceValue(func() []string {
	return strings.Fields(`monolithicSparse streamOptimized monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat 2GbMaxExtentSparse
	2GbMaxExtentFlat vmfs vmfsSparse seSparse vmfsThin vmfsPreallocated vmfsEagerZeroedThick
	vmfsRaw vmfsRDM vmfsRDMP vmfsRawDeviceMap vmfsPassthroughRawDeviceMap custom fullDevice partitionedDevice`)
})

func knownType(s string) bool {
	for _, t := range createTypes() {
		if strings.EqualFold(s, t) {
			return true
		}
	}
	return false
}

func open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	options := req.Options.Clone()
	given := map[string]opts.Dict{}
	for i := 0; ; i++ {
		role := fmt.Sprintf("extents.%d", i)
		sub := options.Sub(role)
		if len(sub) == 0 {
			break
		}
		given[role] = sub
	}
	if err := desc.OpenOptions.Decode(options, &openOptions{}); err != nil {
		return nil, err
	}
	if req.File.Size() == 0 {
		return nil, driver.Errorf(driver.ErrFormat, "file is too small, not a valid image")
	}
	n := &node{file: req.File, write: req.Access.Write}
	if err := n.load(ctx, req, given); err != nil {
		n.release()
		return nil, err
	}
	n.cid = n.desc.cid
	if len(n.extents) == 1 && n.extents[0].compressed {
		if !n.write {
			return n, nil
		}
		s, err := newStreamNode(ctx, n)
		if err != nil {
			n.release()
			return nil, err
		}
		return s, nil
	}
	return writable{n}, nil
}

// release gives back what the extents hold of the budget, without writing anything.
func (n *node) release() {
	for _, x := range n.extents {
		if x.disk != nil {
			x.disk.Release()
		}
		x.twin.release()
	}
}

// load reads what kind of image it is, and opens its extents.
func (n *node) load(ctx context.Context, req *driver.OpenRequest, given map[string]opts.Dict) error {
	head, err := readHead(ctx, n.file, 0)
	if err != nil {
		return err
	}
	switch string(head[:4]) {
	case magicSparse:
		h := decodeSparse(head)
		if h.capacity != 0 || h.descOff == 0 {
			return n.openMonolithic(ctx, req, h)
		}
		if err := n.readDescriptor(ctx, h.descOff); err != nil {
			return err
		}
		// A descriptor with a header around it, or an image of no length.
		if t := n.desc.createType; t == monolithicSparse || t == streamOptimized {
			return n.openMonolithic(ctx, req, h)
		}
		return n.openExtents(ctx, req, given)
	case magicCOWD:
		n.descOff = sectorSize
	default:
		if err := n.readDescriptor(ctx, 0); err != nil {
			return err
		}
		return n.openExtents(ctx, req, given)
	}
	// A sparse extent of ESX that is an image by itself.
	return n.openMonolithic(ctx, req, nil)
}

// readText reads the text of the descriptor, at most length bytes of the file.
func (n *node) readText(ctx context.Context, length int64) ([]byte, error) {
	n.descLen = min(length, n.file.Size()-n.descOff)
	if n.descLen <= 0 {
		return nil, driver.Errorf(driver.ErrCorrupt, "the image has no descriptor: it is a part of another image, whose descriptor is to be opened")
	}
	text, err := safeio.ReadAt(ctx, n.file, n.descOff, n.descLen)
	if err == io.ErrUnexpectedEOF {
		err = driver.Errorf(driver.ErrTruncated, "the file ends in the descriptor")
	}
	return text, err
}

// openMonolithic opens an image that is its one extent; h is nil for that of ESX.
func (n *node) openMonolithic(ctx context.Context, req *driver.OpenRequest, h *sparseHeader) error {
	length := int64(descSectors) * sectorSize
	n.descOff = sectorSize
	if h != nil && h.descOff > 0 && h.descOff < 1<<32 {
		n.descOff = int64(h.descOff) * sectorSize
		if h.descSize > 0 {
			length = int64(min(h.descSize, maxDescriptor/sectorSize)) * sectorSize
		}
	}
	x := &extent{access: accessRW, file: n.file, name: req.Name}
	n.extents = []*extent{x}
	if h != nil {
		// The words about the header come before those about the descriptor.
		if _, err := n.peek(ctx, h, req.Access.Write); err != nil {
			return err
		}
	}
	text, err := n.readText(ctx, length)
	if err != nil {
		return err
	}
	d, err := parseDescriptor(text)
	if err != nil {
		return driver.Errorf(driver.ErrCorrupt, "the image has no descriptor: it is a part of another image, whose descriptor is to be opened")
	}
	if n.desc = d; len(d.extents) > 1 {
		return driver.Errorf(driver.ErrUnsupported, "this is one of %d extents of an image", len(d.extents))
	}
	if err := n.openSparse(ctx, req, x); err != nil {
		return err
	}
	d.createType = "monolithicSparse"
	if x.compressed {
		d.createType = "streamOptimized"
	}
	n.size.Store(x.size.Load())
	return nil
}

// peek checks a header, or the footer in its place.
func (n *node) peek(ctx context.Context, h *sparseHeader, write bool) (*sparseHeader, error) {
	c := *h
	if h.dir == directoryAtEnd {
		f, err := readFooter(ctx, n.file)
		if err != nil {
			return nil, err
		}
		c = *f
	}
	return &c, c.check(n.file.Size(), write)
}

// readDescriptor reads the text that is at a sector of the file.
func (n *node) readDescriptor(ctx context.Context, sector uint64) error {
	if sector > uint64(n.file.Size())/sectorSize {
		return driver.Errorf(driver.ErrCorrupt, "the descriptor at sector %d lies beyond the end of the file", sector)
	}
	n.descOff = int64(sector) * sectorSize
	text, err := n.readText(ctx, maxDescriptor-1)
	if err != nil {
		return err
	}
	n.desc, err = parseDescriptor(text)
	return err
}

// openExtents opens the extents that the descriptor names.
func (n *node) openExtents(ctx context.Context, req *driver.OpenRequest, given map[string]opts.Dict) error {
	if !knownType(n.desc.createType) {
		return driver.Errorf(driver.ErrUnsupported, "unsupported image type '%s'", n.desc.createType)
	}
	limit := req.Env.Budget.MaxExtentFiles
	if limit <= 0 {
		limit = 1000
	}
	if int64(len(n.desc.extents)) > limit {
		return driver.Errorf(driver.ErrBudget, "the image has %d extents, at most %d are opened", len(n.desc.extents), limit)
	}
	files := 0
	for _, line := range n.desc.extents {
		x := &extent{start: n.Size(), kind: line.kind, access: line.access, name: line.name, offset: line.offset * sectorSize}
		n.extents = append(n.extents, x)
		x.size.Store(line.sectors * sectorSize)
		if x.size.Load() > 1<<62-n.Size() {
			return driver.Errorf(driver.ErrCorrupt, "the extents are too large together")
		}
		n.size.Add(x.size.Load())
		if x.kind == extentZero || x.access == accessNone {
			continue
		}
		role := fmt.Sprintf("extents.%d", files)
		files++
		if err := n.openExtent(ctx, req, x, role, given[role]); err != nil {
			return err
		}
	}
	if len(n.extents) == 0 {
		return driver.Errorf(driver.ErrCorrupt, "the descriptor names no extents")
	}
	return nil
}

// openExtent opens the file of an extent, and the extent in it.
func (n *node) openExtent(ctx context.Context, req *driver.OpenRequest, x *extent, role string, given opts.Dict) error {
	switch x.kind {
	case extentFlat, extentVMFS, extentVMFSRaw, extentVMFSRDM, extentSparse, extentVMFSSparse, extentSESparse:
	default:
		return driver.Errorf(driver.ErrUnsupported, "unsupported extent type '%s'", x.kind)
	}
	var err error
	x.file, err = req.Env.OpenChild(ctx, driver.ChildRef{Role: role, Filename: x.name, Options: given, ReadOnly: x.access != accessRW})
	if err != nil {
		if f, ok := n.file.(interface{ Filename() string }); ok && errors.Is(err, driver.ErrNoDirectory) {
			return driver.Errorf(driver.ErrInvalid, "cannot use relative paths with VMDK descriptor file '%s': %w", f.Filename(), err)
		}
		return err
	}
	if f, ok := x.file.(interface{ Filename() string }); ok {
		x.name = f.Filename()
	}
	switch x.kind {
	case extentFlat, extentVMFS, extentVMFSRaw, extentVMFSRDM:
		return nil
	}
	size := x.size.Load()
	if err := n.openSparse(ctx, req, x); err != nil {
		return err
	}
	if x.size.Store(size); x.compressed && n.write {
		return driver.Errorf(driver.ErrReadOnly, "the compressed extent '%s' can only be read", x.name)
	}
	return nil
}
