package qcow2

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/snaptable"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/qapi"
)

// Size is the length of the disk in bytes.
func (im *image) Size() int64 { return im.size.Load() }

// Limits: zeroes and discards work on whole subclusters and clusters.
func (im *image) Limits() driver.Limits {
	return driver.Limits{ClusterSize: im.clusterSize, ZeroAlignment: im.subSize, DiscardAlignment: im.clusterSize,
		NoCompression: im.encrypted()}
}

// Info describes the image.
func (im *image) Info(ctx context.Context) (*driver.Info, error) {
	zeroInit := im.zeroInit(ctx)
	bitmaps := im.bm.Info()
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	h := &im.hdr
	info := &driver.Info{
		ClusterSize: im.clusterSize,
		Encrypted:   im.encrypted(),
		Dirty:       h.Incompatible&ondisk.IncompatDirty != 0,
		Corrupt:     h.Incompatible&ondisk.IncompatCorrupt != 0,
		Allocated:   -1,
		ZeroInit:    zeroInit,
	}
	if im.backing != "" {
		info.Backing = &driver.BackingRef{Filename: im.backing, Format: im.backingFormat}
	}
	for i := range im.snap.Entries {
		info.Snapshots = append(info.Snapshots, snaptable.Info(&im.snap.Entries[i]))
	}
	info.VMStateOffset = im.l1Entries(int64(h.Size)) * im.l2Range()
	spec := qapi.InfoSpecificQcow2{Compat: "0.10", RefcountBits: 1 << h.RefcountOrder, CompressionType: "zlib", Bitmaps: bitmaps}
	if h.CompressionType == ondisk.CompressionZstd {
		spec.CompressionType = "zstd"
	}
	if h.Version >= 3 {
		spec.Compat = "1.1"
		lazy, corrupt, ext := h.Compatible&ondisk.CompatLazyRefcounts != 0, info.Corrupt, h.ExtendedL2()
		spec.LazyRefcounts, spec.Corrupt, spec.ExtendedL2 = &lazy, &corrupt, &ext
		spec.DataFile = im.dataFileName()
		if h.Incompatible&ondisk.IncompatDataFile != 0 {
			raw := h.Autoclear&ondisk.AutoclearDataFileRaw != 0
			spec.DataFileRaw = &raw
		}
	}
	spec.Encrypt = im.encrypt
	info.Specific = &qapi.ImageInfoSpecific{Type: "qcow2", Data: spec}
	return info, nil
}

// zeroInit says whether a new image of these features reads as zeroes. With
// preallocation in a file that did not start as zeroes it may not.
func (im *image) zeroInit(ctx context.Context) bool {
	im.meta.RLock()
	preallocated := len(im.l1.Entries) > 0 && im.l1.Entries[0]&ondisk.OffsetMask != 0
	im.meta.RUnlock()
	if !preallocated {
		return true
	}
	if im.encrypted() {
		return false
	}
	info, err := im.data.Info(ctx)
	return err == nil && info.ZeroInit
}
