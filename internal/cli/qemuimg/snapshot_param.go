package qemuimg

import (
	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
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
