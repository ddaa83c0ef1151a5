package block

import (
	"context"
	"path/filepath"

	"github.com/cowl-disk/cowl/block/driver"
)

// FindBacking returns the layer of the backing chain that name means, nil if
// there is none: name is looked up in the directory of each image of the chain
// in turn, and compared with the backing file that this image records.
func (img *Image) FindBacking(ctx context.Context, name string) (*Image, error) {
	for layer := img.skipFilters(); layer.backing != nil; layer = layer.backing.skipFilters() {
		ref, err := layer.backingRef(ctx)
		if err != nil {
			return nil, err
		}
		if ref != nil && namesBacking(layer, ref.Filename, name) {
			return layer.backing, nil
		}
	}
	return nil, nil
}

// namesBacking says whether name means the backing file of img, which records it
// as stored.
func namesBacking(img *Image, stored, name string) bool {
	if img.File() == nil || name == "" {
		return false
	}
	full, errFull := img.Resolve(stored)
	if hasProtocol(name) || hasProtocol(stored) {
		return name == stored || name == full
	}
	other, errOther := img.Resolve(name)
	if errFull != nil || errOther != nil {
		return false
	}
	a, errA := realPath(other)
	b, errB := realPath(full)
	return errA == nil && errB == nil && a == b
}

// realPath is the absolute path of a file that exists, without symbolic links.
func realPath(name string) (string, error) {
	p, err := filepath.EvalSymlinks(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(p)
}

// ChangeBacking records another backing file in the image; "" for none. What is
// open stays open. ErrUnsupported if the format has no backing files.
func (img *Image) ChangeBacking(ctx context.Context, ref driver.BackingRef) error {
	if err := img.checkWritable("change the backing file", -1); err != nil {
		return err
	}
	c, at, ok := ability[driver.BackingChanger](img)
	if !ok {
		return img.fail("change the backing file", -1, driver.Errorf(driver.ErrUnsupported, "operation not supported"))
	}
	at.lock()
	defer at.unlock()
	return at.fail("change the backing file", -1, c.ChangeBacking(ctx, ref))
}

// KeepReadersOut makes sure that no other process reads the layers between the image
// and base, which will not be consistent any more, and that none starts to. It
// fails if one does, where images are locked.
func (img *Image) KeepReadersOut(ctx context.Context, base *Image) error {
	for layer := img.Backing(); layer != nil && layer != base; layer = layer.Backing() {
		file := layer.skipFilters().File()
		if file == nil || file.access.NoLock {
			continue
		}
		access := file.access
		access.Shared &^= driver.PermConsistentRead
		if err := relock(ctx, file, access); err != nil {
			return err
		}
	}
	return nil
}
