package ops

import (
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

// The parts of a bitmap in a qcow2 image, in bytes: the fixed part of an entry
// of the bitmap directory, to which the name is added, and an entry of a bitmap
// table (docs/interop/qcow2, "Bitmaps extension").
const (
	bitmapDirEntry   = 24
	bitmapDirAlign   = 8
	bitmapTableEntry = 8
	defaultCluster   = 65536
	defaultCompat    = "1.1"
)

// bitmapsSize tells how much room the persistent bitmaps of source would take in
// a new qcow2 image with the given options; nil if either side cannot have any.
func bitmapsSize(ctx context.Context, source *block.Image, options opts.Dict) (*int64, error) {
	info, err := source.Info(ctx)
	if err != nil || info.Specific == nil {
		return nil, err
	}
	var spec qapi.InfoSpecificQcow2
	switch s := info.Specific.Data.(type) {
	case qapi.InfoSpecificQcow2:
		spec = s
	case *qapi.InfoSpecificQcow2:
		spec = *s
	default:
		return nil, nil
	}
	compat := options.String("compat")
	if spec.Compat != defaultCompat || compat == "0.10" || compat == "v2" {
		return nil, nil
	}
	cluster := int64(defaultCluster)
	if text := options.String("cluster_size"); text != "" {
		if cluster, err = opts.ParseSize(text); err != nil || cluster <= 0 {
			return nil, err
		}
	}
	up := func(n, unit int64) int64 { return (n + unit - 1) / unit }
	total, dir := int64(0), int64(0)
	for _, b := range spec.Bitmaps {
		if b.Granularity == 0 {
			continue
		}
		bytes := up(up(source.Size(), int64(b.Granularity)), 8)
		clusters := up(bytes, cluster)
		total += clusters*cluster + up(clusters*bitmapTableEntry, cluster)*cluster
		dir += up(bitmapDirEntry+int64(len(b.Name)), bitmapDirAlign) * bitmapDirAlign
	}
	total += up(dir, cluster) * cluster
	return &total, nil
}
