package parallels

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// readOnlyBundle is a bundle that is open for reading: the bitmaps of its newest image can be
// looked at.
type readOnlyBundle struct {
	*bundle
	driver.Bitmapper
	driver.Describer
}

var (
	_ driver.Format         = (*readOnlyBundle)(nil)
	_ driver.Bitmapper      = (*readOnlyBundle)(nil)
	_ driver.Describer      = (*readOnlyBundle)(nil)
	_ driver.SnapshotOpener = (*readOnlyBundle)(nil)
)

// findBitmaps finds the image whose bitmaps are those of the disk: the newest one, if it has
// all of the disk. Of a disk in parts each image has bitmaps of its part alone, which are not
// shown.
func (r *readOnlyBundle) findBitmaps() {
	of := &readOnlyImage{image: &image{}}
	if len(r.parts) == 1 {
		if im := r.parts[0].layers[0].image; im != nil && im.Size() == r.Size() {
			of = &readOnlyImage{image: im, budget: r.req.Env.Budget}
		}
	}
	r.Bitmapper, r.Describer = of, of
}

// OpenSnapshot implements driver.SnapshotOpener.
func (r *readOnlyBundle) OpenSnapshot(ctx context.Context, id string) error {
	err := r.bundle.OpenSnapshot(ctx, id)
	if err == nil {
		r.findBitmaps()
	}
	return err
}
