package block

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// onStorage makes an image of the format drv, which is a Creator, in req.Storage.
func (c *Creation) onStorage(ctx context.Context, reg *Registry, req CreateRequest, drv driver.Driver) error {
	if c.name != "" {
		return driver.Errorf(driver.ErrInvalid, "the image to be created has both a file name and Storage")
	}
	desc := drv.Desc()
	if desc.Kind == driver.KindProtocol {
		return driver.Errorf(driver.ErrInvalid, "'%s' is a protocol: name a format for Storage", desc.Name)
	}
	own, _, err := splitOptions(req.Options, desc, &driver.Desc{})
	if err != nil {
		return err
	}
	size, filtered := int64(0), desc.PassesThrough() == "file"
	if filtered {
		size = (req.Size + 511) &^ 511
		for name := range own {
			return driver.Errorf(driver.ErrUnsupported, "the option '%s' is for files that are made by name", name)
		}
	}
	if err := c.emptyStorage(ctx, reg, req, size); err != nil || filtered {
		return err
	}
	if err := c.format(ctx, reg, req, drv.(driver.Creator), own); err != nil {
		return &RemainsError{Err: err, Remains: c.Undo(ctx)}
	}
	return nil
}

// emptyStorage drops what Storage holds and gives it the size. One that cannot be resized
// must be large enough, as a device.
func (c *Creation) emptyStorage(ctx context.Context, reg *Registry, req CreateRequest, size int64) (err error) {
	file, err := openProtocolFile(ctx, reg, req, Source{Storage: req.Storage})
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := driver.Farewell(ctx, driver.ClosingTime)
		defer cancel()
		if e := file.Close(last); err == nil {
			err = e
		}
	}()
	fixed := file.Traits().FixedSize
	if fixed && file.Size() < size {
		return driver.Errorf(driver.ErrNoSpace, "the storage has %d bytes, the image needs %d: %w", file.Size(), size, driver.ErrNoSpace)
	}
	c.name, c.existed = file.Filename(), true
	if fixed {
		return nil
	}
	if err := file.Resize(ctx, 0, driver.ResizeOptions{}); err != nil {
		return err
	}
	return file.Resize(ctx, size, driver.ResizeOptions{})
}
