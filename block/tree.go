package block

import (
	"context"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

// Tree shows what an image is made of: its driver, and the images that it has opened.
// It stays valid as long as the image is open.
type Tree struct{ img *Image }

// Tree returns the parts of the image.
func (img *Image) Tree() Tree { return Tree{img} }

// Driver returns the driver.
func (t Tree) Driver() driver.Driver { return t.img.drv }

// Node returns the driver's node, for its optional interfaces. The block layer's
// rules for writing do not hold for what is done with it.
func (t Tree) Node() driver.Node { return t.img.node }

// File returns the "file" child, nil for protocols.
func (t Tree) File() *Image { return t.Child("file") }

// Child returns the child with a role, nil if there is none.
func (t Tree) Child(role string) *Image {
	for _, c := range t.img.children {
		if c.Role == role {
			return c.Image
		}
	}
	return nil
}

// Children returns the children except the backing image.
func (t Tree) Children() []Child { return t.img.children }

// Protocol returns the image of the chain of "file" children that is a protocol.
func (t Tree) Protocol() *Image {
	img := t.img
	for img.storage == nil && img.Tree().File() != nil {
		img = img.Tree().File()
	}
	return img
}

// PassedThrough returns the child that the image passes through, nil if there is none:
// filters and raw images have one.
func (t Tree) PassedThrough() *Image { return t.Child(t.img.desc.PassesThrough()) }

// FindBacking returns the layer of the backing chain that name means, nil if
// there is none: name is looked up in the directory of each image of the chain
// in turn, and compared with the backing file that this image records.
func (t Tree) FindBacking(ctx context.Context, name string) (*Image, error) {
	for layer := t.img.skipFilters(); layer.backing != nil; layer = layer.backing.skipFilters() {
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

// KeepReadersOut makes sure that no other process reads the layers between the image
// and base, which will not be consistent any more, and that none starts to. It
// fails if one does, where images are locked.
func (t Tree) KeepReadersOut(ctx context.Context, base *Image) error {
	for layer := t.img.Backing(); layer != nil && layer != base; layer = layer.Backing() {
		file := layer.skipFilters().Tree().File()
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

// Resolve returns the file name by which the image refers to a file that it records
// as name: relative names are in the directory of the file that holds the image. It
// fails where a relative name has no such directory: several children, or a protocol
// without file names.
func (t Tree) Resolve(name string) (string, error) {
	if !relative(name) {
		return name, nil
	}
	at := t.img
	for next := at; next != nil && !at.desc.NoDirectory; {
		at = next
		if next = at.Tree().PassedThrough(); next == nil && at.desc.Kind != driver.KindProtocol {
			next = at.Tree().File()
		}
	}
	if at.desc.NoDirectory || strings.HasPrefix(at.name, "json:") {
		return "", driver.Errorf(driver.ErrNoDirectory, "cannot generate a base directory for %s nodes", at.desc.Name)
	}
	return CombinePath(at.name, name), nil
}
