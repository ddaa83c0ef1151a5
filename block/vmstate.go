package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// ReadVMState fills p from position pos of the state of a virtual machine that the image
// holds beside the disk. What was never written of it reads as zeroes.
func (img *Image) ReadVMState(ctx context.Context, p []byte, pos int64) error {
	at, keeper, err := img.vmState("read", pos)
	if err != nil {
		return err
	}
	e := at.guard.Enter()
	defer at.guard.Exit(e)
	at.lock()
	defer at.unlock()
	return at.fail("read the state of a virtual machine", pos, keeper.ReadVMState(ctx, p, pos))
}

// WriteVMState writes p at position pos of the state of a virtual machine.
func (img *Image) WriteVMState(ctx context.Context, p []byte, pos int64) error {
	if err := img.checkWritable("write", pos); err != nil {
		return err
	}
	at, keeper, err := img.vmState("write", pos)
	if err != nil {
		return err
	}
	at.changing.RLock()
	defer at.changing.RUnlock()
	e := at.guard.Enter()
	at.lock()
	err = keeper.WriteVMState(ctx, p, pos)
	at.unlock()
	at.guard.Exit(e)
	if err == nil && img.cache.WriteThrough {
		err = img.Flush(ctx)
	}
	return at.fail("write the state of a virtual machine", pos, err)
}

// vmState returns the image that holds the state of a virtual machine for img: that which
// has its snapshots.
func (img *Image) vmState(op string, pos int64) (*Image, driver.VMStateKeeper, error) {
	if err := img.open(op, pos); err != nil {
		return nil, nil, err
	}
	at := img.withSnapshots()
	keeper, ok := at.node.(driver.VMStateKeeper)
	if !ok {
		return nil, nil, img.fail(op, pos, driver.Errorf(driver.ErrUnsupported, "images of this format hold no state of a virtual machine"))
	}
	return at, keeper, nil
}
