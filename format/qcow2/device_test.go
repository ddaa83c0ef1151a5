package qcow2

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// fixedDisk is a device: it cannot grow.
type fixedDisk struct{ driver.Storage }

func (d fixedDisk) Traits() driver.Traits {
	t := d.Storage.Traits()
	t.FixedSize = true
	return t
}

// TestRoomOnDevice: room between the end of the image and that of its device is used.
func TestRoomOnDevice(t *testing.T) {
	ctx := context.Background()
	for name, change := range map[string]func(im *image) error{
		"refcount width": func(im *image) error { return im.setRefcountOrder(ctx, 6, nil) },
		"preallocation": func(im *image) error {
			return im.Resize(ctx, 8<<20, driver.ResizeOptions{Prealloc: driver.PreallocMetadata})
		},
		"full preallocation": func(im *image) error {
			return im.Resize(ctx, 8<<20, driver.ResizeOptions{Prealloc: driver.PreallocFull})
		},
	} {
		for _, version := range []string{"0.10", "1.1"} {
			if version == "0.10" && name == "refcount width" {
				continue
			}
			img, disk, _ := memImage(t, opts.Dict{"cluster_size": "4k", "compat": version})
			if _, err := img.WriteAt(ctx, make([]byte, 1<<20), 0); err != nil {
				t.Fatal(err)
			}
			im := img.Tree().Node().(*image)
			if err := im.Flush(ctx); err != nil {
				t.Fatal(err)
			}
			if err := disk.Resize(ctx, 10<<20, driver.ResizeOptions{}); err != nil {
				t.Fatal(err)
			}
			im.file = fixedDisk{disk}
			im.data = im.file
			if err := im.alloc.init(ctx, im); err != nil {
				t.Fatal(err)
			}
			if err := change(im); err != nil {
				t.Errorf("%s, version %s: %v", name, version, err)
			}
			mustBeClean(t, img, name)
			if err := img.Close(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
}
