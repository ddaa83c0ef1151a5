package file

import (
	"context"
	"io/fs"
	"os"
	"sync/atomic"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// handleOptions: there are none.
type handleOptions struct{}

// Handle makes storage of an open regular file or block device, for
// block.Source.Storage. The file's name is used in messages, and for the directory in
// which a relative backing file is looked for. The file stays the caller's: it is closed
// after the image on it. To write, the file must have been opened for reading and
// writing. Image locks are taken as on files that are opened by name; they belong to f,
// so that one image at a time can be open on it.
func Handle(f *os.File) (driver.Driver, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, sysErrorf(err, "could not stat file")
	}
	h := &handle{f: f, desc: driver.Desc{Name: fileDesc.Name, Kind: driver.KindProtocol, Summary: fileDesc.Summary,
		OpenOptions: opts.SchemaOf(handleOptions{})}}
	switch {
	case st.Mode()&fs.ModeDevice != 0 && st.Mode()&fs.ModeCharDevice == 0:
		h.desc.Name, h.desc.Summary = deviceDesc.Name, deviceDesc.Summary
	case !st.Mode().IsRegular():
		return nil, driver.Errorf(driver.ErrInvalid, "'%s' is neither a regular file nor a block device", f.Name())
	}
	return h, nil
}

// handle is a driver that opens one file, which is open already.
type handle struct {
	f    *os.File
	desc driver.Desc
	open atomic.Bool
}

// Desc implements driver.Driver.
func (h *handle) Desc() *driver.Desc { return &h.desc }

// Open implements driver.Driver.
func (h *handle) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o handleOptions
	if err := h.desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if req.Cache.Direct {
		return nil, driver.Errorf(driver.ErrUnsupported, "direct I/O needs a file name: '%s' is open already", h.f.Name())
	}
	if req.Access.Write && !handleWritable(h.f) {
		return nil, driver.Errorf(driver.ErrReadOnly, "the file '%s' is open for reading only", h.f.Name())
	}
	if !h.open.CompareAndSwap(false, true) {
		return nil, driver.Errorf(driver.ErrLocked, "an image is open on the file '%s' already", h.f.Name())
	}
	n, err := newNode(h.f, h.desc.Name, h.f.Name(), req)
	if err == nil {
		n.borrowed, n.locking = h, "auto"
		err = n.Relock(ctx, req.Access)
	}
	if err != nil {
		h.open.Store(false)
		return nil, err
	}
	return n, nil
}
