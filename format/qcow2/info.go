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
	return driver.Limits{ClusterSize: im.clusterSize, ZeroAlignment: im.subSize, DiscardAlignment: im.clusterSize}
}

// Traits implements driver.Node.
func (im *image) Traits() driver.Traits {
	encrypted := im.encrypted()
	return driver.Traits{Encrypted: encrypted, NoCompression: encrypted, ZeroInit: im.zeroInit()}
}

// State implements driver.Stater.
func (im *image) State(context.Context) (*driver.State, error) {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	s := &driver.State{
		Dirty:   im.hdr.Incompatible&ondisk.IncompatDirty != 0,
		Corrupt: im.hdr.Incompatible&ondisk.IncompatCorrupt != 0,
	}
	if im.backing != "" {
		s.Backing = &driver.BackingRef{Filename: im.backing, Format: im.backingFormat}
	}
	return s, nil
}

// Snapshots implements driver.Snapshotter.
func (im *image) Snapshots(context.Context) ([]qapi.SnapshotInfo, error) {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	var list []qapi.SnapshotInfo
	for i := range im.snap.Entries {
		list = append(list, snaptable.Info(&im.snap.Entries[i]))
	}
	return list, nil
}

// Info implements driver.Describer.
func (im *image) Info(context.Context) (*driver.Info, error) {
	bitmaps := im.bm.Info()
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	h := &im.hdr
	spec := qapi.InfoSpecificQcow2{Compat: "0.10", RefcountBits: 1 << h.RefcountOrder, CompressionType: "zlib", Bitmaps: bitmaps}
	if h.CompressionType == ondisk.CompressionZstd {
		spec.CompressionType = "zstd"
	}
	if h.Version >= 3 {
		spec.Compat = "1.1"
		lazy, corrupt, ext := h.Compatible&ondisk.CompatLazyRefcounts != 0, h.Incompatible&ondisk.IncompatCorrupt != 0, h.ExtendedL2()
		spec.LazyRefcounts, spec.Corrupt, spec.ExtendedL2 = &lazy, &corrupt, &ext
		spec.DataFile = im.dataFileName()
		if h.Incompatible&ondisk.IncompatDataFile != 0 {
			raw := h.Autoclear&ondisk.AutoclearDataFileRaw != 0
			spec.DataFileRaw = &raw
		}
	}
	spec.Encrypt = im.encrypt
	// Behind the last L1 entry of the disk (VM state, in the specification's words).
	table := im.clusterSize << im.l2Bits
	return &driver.Info{ClusterSize: im.clusterSize, VMStateOffset: (im.Size() + table - 1) / table * table, Specific: &qapi.ImageInfoSpecific{Type: "qcow2", Data: spec}}, nil
}

// zeroInit says whether a new image of these features reads as zeroes. With
// preallocation in a file that did not start as zeroes it may not.
func (im *image) zeroInit() bool {
	im.meta.RLock()
	preallocated := len(im.l1.Entries) > 0 && im.l1.Entries[0]&ondisk.OffsetMask != 0
	im.meta.RUnlock()
	if !preallocated {
		return true
	}
	if im.encrypted() {
		return false
	}
	return im.data.Traits().ZeroInit
}
