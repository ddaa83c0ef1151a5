package nbd_test

import (
	"context"
	"errors"
	"io/fs"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/nbd"
)

// refusing is a device whose writes fail.
type refusing struct{ err error }

func (*refusing) Size() int64                                          { return 1 << 20 }
func (*refusing) ReadAt(context.Context, []byte, int64) error          { return nil }
func (*refusing) Flush(context.Context) error                          { return nil }
func (d *refusing) WriteAt(context.Context, []byte, int64, bool) error { return d.err }

// TestKinds checks that an error of the server is of the kind that it would have
// here: a full disk is a full disk.
func TestKinds(t *testing.T) {
	ctx := t.Context()
	dev := &refusing{}
	img, err := block.Open(ctx, block.NewRegistry(nbd.New()), block.Source{Filename: serveDevice(t, dev), Options: opts.Dict{"driver": "nbd"}},
		block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	for _, c := range []struct {
		err   error
		kinds []error
	}{
		{wire.ENOSPC, []error{driver.ErrNoSpace, syscall.ENOSPC}},
		{syscall.ENOSPC, []error{driver.ErrNoSpace, syscall.ENOSPC}},
		{wire.EPERM, []error{driver.ErrReadOnly, syscall.EPERM, fs.ErrPermission}},
		{wire.ENOTSUP, []error{driver.ErrUnsupported, errors.ErrUnsupported}},
		{wire.EIO, []error{syscall.EIO}},
	} {
		dev.err = c.err
		_, err := img.WriteAt(ctx, make([]byte, 512), 0)
		for _, kind := range c.kinds {
			if !errors.Is(err, kind) {
				t.Errorf("the server says %v, we %v, which is not %v", c.err, err, kind)
			}
		}
		if errors.Is(err, driver.ErrNoSpace) != errors.Is(c.err, driver.ErrNoSpace) {
			t.Errorf("the server says %v, we that the disk is full: %v", c.err, err)
		}
	}
	if _, err := img.WriteAt(ctx, make([]byte, 512), 1<<20); !errors.Is(err, driver.ErrRange) {
		t.Errorf("beyond the end: %v", err)
	}
}
