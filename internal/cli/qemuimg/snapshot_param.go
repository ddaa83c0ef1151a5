package qemuimg

import (
	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
)

type (
	snapshotParam = imageopt.Snapshot
	twoErrors     = imageopt.TwoErrors
)

func parseSnapshot(arg string) (snapshotParam, error) { return imageopt.ParseSnapshot(arg) }

// loadSnapshot switches an image to an internal snapshot, if one is given.
func (c *call) loadSnapshot(img *block.Image, param snapshotParam) error {
	return param.Load(c.ctx, img)
}

// snapshotOption declares an option that names an internal snapshot.
func snapshotOption(v *snapshotParam, spelling, help string) program.Option {
	return program.Func(spelling, help, func(arg string) (err error) {
		*v, err = parseSnapshot(arg)
		return err
	})
}
