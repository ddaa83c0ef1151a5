package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// The parts of a bitmap in a qcow2 image, in bytes: the fixed part of an entry
// of the bitmap directory, to which the name is added, and an entry of a bitmap
// table (docs/interop/qcow2, "Bitmaps extension").
const (
	bitmapDirEntry   = 24
	bitmapDirAlign   = 8
	bitmapTableEntry = 8
	defaultCluster   = 65536
)

// bitmapsSize returns how many bytes the persistent bitmaps of source would take in
// a new qcow2 image with the given options; nil if either side cannot have any.
func bitmapsSize(ctx context.Context, source *block.Image, options opts.Dict) (*int64, error) {
	list, ok, err := source.Bitmaps().List(ctx)
	compat := options.String("compat")
	if _, lists := source.Tree().Node().(driver.Bitmapper); !lists {
		// There may be some, but nobody reads them here.
		ok = ok || source.Tree().Driver().Desc().StoresBitmaps
	}
	if err != nil || !ok || compat == "0.10" || compat == "v2" {
		return nil, err
	}
	cluster := int64(defaultCluster)
	if text := options.String("cluster_size"); text != "" {
		if cluster, err = opts.ParseSize(text); err != nil || cluster <= 0 {
			return nil, err
		}
	}
	up := func(n, unit int64) int64 { return (n + unit - 1) / unit }
	total, dir := int64(0), int64(0)
	for _, b := range list {
		bytes := up(up(source.Size(), b.Granularity), 8)
		clusters := up(bytes, cluster)
		total += clusters*cluster + up(clusters*bitmapTableEntry, cluster)*cluster
		dir += up(bitmapDirEntry+int64(len(b.Name)), bitmapDirAlign) * bitmapDirAlign
	}
	total += up(dir, cluster) * cluster
	return &total, nil
}
