package file

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

const (
	sectorSize = 512
	// defaultExtentSizeHint keeps files on XFS from falling into small pieces.
	defaultExtentSizeHint = 1 << 20
)

// Create implements driver.Creator. An existing file is emptied first, under
// image locks: it must not be in use.
func (d *regular) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	var o createOptions
	if err := createSchema.Decode(req.Options, &o); err != nil {
		return err
	}
	mode, err := preallocation(o.Preallocation)
	if err != nil {
		return err
	}
	if o.ExtentSizeHint != nil && *o.ExtentSizeHint > math.MaxUint32 {
		return driver.Errorf(driver.ErrInvalid, "extent size hint is too large")
	}
	if req.Size < 0 || req.Size > math.MaxInt64-sectorSize {
		return driver.Errorf(driver.ErrTooLarge, "image size %d is too large", req.Size)
	}
	name := d.path(req.Filename)
	if st, err := os.Stat(name); err == nil && st.Mode()&fs.ModeDevice != 0 {
		if req.Size > 0 {
			return driver.Errorf(driver.ErrUnsupported, "cannot grow device files")
		}
		return nil
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	made := err == nil
	if errors.Is(err, driver.ErrExists) {
		f, err = os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	}
	if err != nil {
		return sysErrorf(err, "could not create '%s'", name)
	}
	defer func() {
		if e := f.Close(); e != nil && err == nil {
			err = sysErrorf(e, "could not close the new file")
		}
		if err != nil && made {
			_ = os.Remove(name)
		}
		if req.Made != nil {
			*req.Made = made && err == nil
		}
	}()
	// Everything is going to be overwritten, and the length is promised to our
	// caller.
	want := locks{perm: driver.PermWrite | driver.PermResize, unshared: driver.PermResize}
	defer unlockNode(f, want, locks{}) // for the reason given at Close
	if err := lockNode(f, name, locks{}, want, false); err != nil {
		return err
	}
	if err := setLength(ctx, f, 0, driver.PreallocOff); err != nil {
		return err
	}
	if o.NoCOW {
		setNoCOW(f)
	}
	d.hintExtentSize(f, o.ExtentSizeHint, req.Env)
	return setLength(ctx, f, (req.Size+sectorSize-1)/sectorSize*sectorSize, mode)
}

// hintExtentSize sets the extent size hint, and warns only if it was asked for.
func (d *regular) hintExtentSize(f *os.File, hint *int64, env *driver.Env) {
	size := int64(defaultExtentSizeHint)
	if hint != nil {
		size = *hint
	}
	err := setExtentSizeHint(f, size)
	if err != nil && hint != nil && size != 0 && env != nil && env.Warn != nil {
		env.Warn("Failed to set extent size hint: " + env.InWords(err))
	}
}

// Delete implements driver.Deleter.
func (d *regular) Delete(_ context.Context, filename string) error {
	name := d.path(filename)
	st, err := os.Stat(name)
	if err != nil || !st.Mode().IsRegular() {
		return sysErrorf(syscall.ENOENT, "%s is not a regular file", name)
	}
	return sysErrorf(os.Remove(name), "error when deleting file %s", name)
}

// Create implements driver.Creator for devices, which exist already: the image
// must fit, and the first sector is cleared, so that no format is recognised
// that was there before.
func (d *device) Create(ctx context.Context, req *driver.CreateRequest) (err error) {
	var o deviceCreateOptions
	if err := deviceCreateSchema.Decode(req.Options, &o); err != nil {
		return err
	}
	mode, err := preallocation(o.Preallocation)
	if err != nil {
		return err
	}
	if mode != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", mode)
	}
	node, err := d.Open(ctx, &driver.OpenRequest{
		Name:    req.Filename,
		Options: opts.Dict{"filename": d.path(req.Filename)},
		Access: driver.Access{Write: true, Perm: driver.PermWrite | driver.PermResize,
			Shared: driver.PermAll &^ driver.PermResize},
		Env: req.Env,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.Close(ctx)) }()
	if err := node.(driver.Resizer).Resize(ctx, req.Size, driver.ResizeOptions{}); err != nil {
		return err
	}
	n := min(node.Size(), sectorSize)
	_, err = node.(driver.Storage).WriteAt(ctx, make([]byte, n), 0)
	return err
}
