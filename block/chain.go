package block

import (
	"context"
	"path/filepath"

	"github.com/cowl-disk/cowl/block/driver"
)

// namesBacking says whether name means the backing file of img, which records it
// as stored.
func namesBacking(img *Image, stored, name string) bool {
	if img.Tree().File() == nil || name == "" {
		return false
	}
	full, errFull := img.Tree().Resolve(stored)
	if hasProtocol(name) || hasProtocol(stored) {
		return name == stored || name == full
	}
	other, errOther := img.Tree().Resolve(name)
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
