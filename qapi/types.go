package qapi

import "encoding/json"

// ImageInfo describes an image ("info --output=json"). With --backing-chain a
// list of it is printed.
type ImageInfo struct {
	Children       []ImageChild       `json:"children"`
	Snapshots      []SnapshotInfo     `json:"snapshots,omitempty"`
	BackingFormat  string             `json:"backing-filename-format,omitempty"`
	VirtualSize    int64              `json:"virtual-size"`
	Filename       string             `json:"filename"`
	ClusterSize    int64              `json:"cluster-size,omitempty"`
	Format         string             `json:"format"`
	ActualSize     *int64             `json:"actual-size,omitempty"`
	Encrypted      bool               `json:"encrypted,omitempty"`
	Compressed     bool               `json:"compressed,omitempty"`
	FormatSpecific *ImageInfoSpecific `json:"format-specific,omitempty"`
	FullBacking    string             `json:"full-backing-filename,omitempty"`
	Backing        string             `json:"backing-filename,omitempty"`
	DirtyFlag      *bool              `json:"dirty-flag,omitempty"`
	Limits         *BlockLimitsInfo   `json:"limits,omitempty"`
}

// BlockLimitsInfo has the limits of requests to a node, in bytes; 0 where there is
// none.
type BlockLimitsInfo struct {
	RequestAlignment     int64 `json:"request-alignment"` // at least 1
	DiscardAlignment     int64 `json:"discard-alignment,omitempty"`
	WriteZeroesAlignment int64 `json:"write-zeroes-alignment,omitempty"`
	OptTransfer          int64 `json:"opt-transfer,omitempty"`
	MaxTransfer          int64 `json:"max-transfer,omitempty"`
	MaxIOV               int64 `json:"max-iov"` // buffers of a request
	MinMemAlignment      int64 `json:"min-mem-alignment"`
	OptMemAlignment      int64 `json:"opt-mem-alignment"`
}

// ImageChild is a named child node.
type ImageChild struct {
	Name string    `json:"name"`
	Info ImageInfo `json:"info"`
}

// ImageInfoSpecific is a tagged union: Data is one of the InfoSpecific types.
type ImageInfoSpecific struct {
	Type string `json:"type"`
	Data any    `json:"data"`
}

// InfoSpecificRBD is the specific information of images of Ceph.
type InfoSpecificRBD struct {
	EncryptionFormat string `json:"encryption-format,omitempty"`
}

// InfoSpecificFile is the specific information of the file protocol.
type InfoSpecificFile struct {
	ExtentSizeHint int64 `json:"extent-size-hint,omitempty"`
}

// InfoSpecificQcow2 is the specific information of qcow2.
type InfoSpecificQcow2 struct {
	Compat          string            `json:"compat"`
	DataFile        string            `json:"data-file,omitempty"`
	DataFileRaw     *bool             `json:"data-file-raw,omitempty"`
	ExtendedL2      *bool             `json:"extended-l2,omitempty"`
	LazyRefcounts   *bool             `json:"lazy-refcounts,omitempty"`
	Corrupt         *bool             `json:"corrupt,omitempty"`
	RefcountBits    int               `json:"refcount-bits"`
	Encrypt         json.RawMessage   `json:"encrypt,omitempty"`
	Bitmaps         []Qcow2BitmapInfo `json:"bitmaps,omitempty"`
	CompressionType string            `json:"compression-type"`
}

// InfoSpecificParallels is the specific information of parallels, which QEMU has none of.
type InfoSpecificParallels struct {
	Bitmaps []Qcow2BitmapInfo `json:"bitmaps"`
}

// InfoSpecificVmdk is the specific information of vmdk.
type InfoSpecificVmdk struct {
	CID        uint32           `json:"cid"`
	ParentCID  uint32           `json:"parent-cid"`
	CreateType string           `json:"create-type"`
	Extents    []VmdkExtentInfo `json:"extents"`
}

// VmdkExtentInfo describes an extent of a vmdk image.
type VmdkExtentInfo struct {
	Compressed  *bool  `json:"compressed,omitempty"`
	VirtualSize int64  `json:"virtual-size"`
	Filename    string `json:"filename"`
	ClusterSize int64  `json:"cluster-size,omitempty"`
	Format      string `json:"format"`
}

// Qcow2BitmapInfo describes a persistent dirty bitmap, also of a parallels image.
type Qcow2BitmapInfo struct {
	Name        string   `json:"name"`
	Granularity uint32   `json:"granularity"`
	Flags       []string `json:"flags"` // "in-use", "auto"
}

// SnapshotInfo describes an internal snapshot.
type SnapshotInfo struct {
	Icount      *int64 `json:"icount,omitempty"`
	VMClockNsec int64  `json:"vm-clock-nsec"`
	Name        string `json:"name"`
	DateSec     int64  `json:"date-sec"`
	DateNsec    int64  `json:"date-nsec"`
	VMClockSec  int64  `json:"vm-clock-sec"`
	ID          string `json:"id"`
	VMStateSize int64  `json:"vm-state-size"`
}

// ImageCheck is the result of "check --output=json".
type ImageCheck struct {
	ImageEndOffset     *int64 `json:"image-end-offset,omitempty"`
	TotalClusters      *int64 `json:"total-clusters,omitempty"`
	CheckErrors        int64  `json:"check-errors"`
	AllocatedClusters  *int64 `json:"allocated-clusters,omitempty"`
	FragmentedClusters *int64 `json:"fragmented-clusters,omitempty"`
	CompressedClusters *int64 `json:"compressed-clusters,omitempty"`
	Filename           string `json:"filename"`
	Format             string `json:"format"`
	Leaks              *int64 `json:"leaks,omitempty"`
	LeaksFixed         *int64 `json:"leaks-fixed,omitempty"`
	Corruptions        *int64 `json:"corruptions,omitempty"`
	CorruptionsFixed   *int64 `json:"corruptions-fixed,omitempty"`
}

// MapEntry is one element of "map --output=json".
type MapEntry struct {
	Start      int64  `json:"start"`
	Length     int64  `json:"length"`
	Depth      int64  `json:"depth"`
	Present    bool   `json:"present"`
	Zero       bool   `json:"zero"`
	Data       bool   `json:"data"`
	Compressed bool   `json:"compressed"`
	Offset     *int64 `json:"offset,omitempty"`
	Filename   string `json:"filename,omitempty"`
}

// BlockMeasureInfo is the result of "measure --output=json".
type BlockMeasureInfo struct {
	Bitmaps        *int64 `json:"bitmaps,omitempty"`
	Required       int64  `json:"required"`
	FullyAllocated int64  `json:"fully-allocated"`
}
