package layout

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// FeatureNames is the feature name table of new images.
var FeatureNames = []ondisk.FeatureName{
	{Type: ondisk.FeatureIncompatible, Bit: 0, Name: "dirty bit"},
	{Type: ondisk.FeatureIncompatible, Bit: 1, Name: "corrupt bit"},
	{Type: ondisk.FeatureIncompatible, Bit: 2, Name: "external data file"},
	{Type: ondisk.FeatureIncompatible, Bit: 3, Name: "compression type"},
	{Type: ondisk.FeatureIncompatible, Bit: 4, Name: "extended L2 entries"},
	{Type: ondisk.FeatureCompatible, Bit: 0, Name: "lazy refcounts"},
	{Type: ondisk.FeatureAutoclear, Bit: 0, Name: "bitmaps"},
	{Type: ondisk.FeatureAutoclear, Bit: 1, Name: "raw external data"},
}

// minFeatureNameCluster is the smallest cluster size with room to spare for the
// feature name table; QEMU leaves the table out below it.
const minFeatureNameCluster = 8192

// newHeader encodes the header cluster of a new image: header, extensions (more
// after those of the names) and backing file name, not padded. It sets the backing
// fields of h.
func newHeader(h *ondisk.Header, backing, backingFormat, dataFile string, more ...ondisk.Extension) ([]byte, error) {
	var ext []byte
	if backingFormat != "" {
		ext = ondisk.AppendExtension(ext, ondisk.Extension{Type: ondisk.ExtBackingFormat, Data: []byte(backingFormat)})
	}
	if dataFile != "" {
		ext = ondisk.AppendExtension(ext, ondisk.Extension{Type: ondisk.ExtDataFile, Data: []byte(dataFile)})
	}
	for _, e := range more {
		ext = ondisk.AppendExtension(ext, e)
	}
	if h.Version >= 3 && h.ClusterSize() >= minFeatureNameCluster {
		ext = ondisk.AppendExtension(ext, ondisk.Extension{Type: ondisk.ExtFeatureNames,
			Data: ondisk.AppendFeatureNames(nil, FeatureNames)})
	}
	ext = ondisk.AppendExtension(ext, ondisk.Extension{Type: ondisk.ExtEnd})

	fixed := ondisk.HeaderSizeV2
	if h.Version >= 3 {
		fixed = ondisk.HeaderSizeFull
	}
	if int64(fixed+len(ext)+len(backing)) > h.ClusterSize() {
		if backing != "" {
			return nil, driver.Errorf(driver.ErrInvalid,
				"could not assign backing file '%s' with format '%s': no space left on device", backing, backingFormat)
		}
		return nil, driver.Errorf(driver.ErrInvalid, "could not update qcow2 header: no space left on device")
	}
	h.BackingFileOffset, h.BackingFileSize = 0, 0
	if backing != "" {
		h.BackingFileOffset, h.BackingFileSize = uint64(fixed+len(ext)), uint32(len(backing))
	}
	b := append(h.Append(nil), ext...)
	return append(b, backing...), nil
}

// encodeTable writes an L2 table into b, a zeroed cluster.
func encodeTable(b []byte, runs []tableRun, clusterSize, entrySize int64) {
	for _, r := range runs {
		host := uint64(r.host) | ondisk.FlagCopied
		for i := r.first * entrySize; i < (r.first+r.count)*entrySize; i += entrySize {
			binary.BigEndian.PutUint64(b[i:], host)
			host += uint64(clusterSize)
		}
	}
}

// fullRefcountBlock returns a refcount block whose entries are all one.
func fullRefcountBlock(clusterSize int64, order uint32) []byte {
	b := make([]byte, clusterSize)
	n := min(clusterSize, 8)
	for i := range int(n * 8 >> order) {
		ondisk.SetRefcount(b, i, order, 1)
	}
	for ; n < clusterSize; n *= 2 {
		copy(b[n:], b[:n])
	}
	return b
}

// encodeRefcounts writes refcount block index into b: one for each cluster in
// use, else zero. full is what fullRefcountBlock returns.
func (p *planner) encodeRefcounts(b, full []byte, index int64) {
	first := index << p.blockBits()
	end := first + 1<<p.blockBits()
	for _, c := range p.used {
		if c.Start <= first && c.End >= end {
			copy(b, full)
			return
		}
	}
	clear(b)
	for _, c := range p.used {
		for i := max(c.Start, first); i < min(c.End, end); i++ {
			ondisk.SetRefcount(b, int(i-first), p.refcountOrder, 1)
		}
	}
}
