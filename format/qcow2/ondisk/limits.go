package ondisk

// Limits on what an image may declare, those of QEMU.
const (
	MaxL1Bytes            = 32 << 20
	MaxRefcountTableBytes = 8 << 20
	MaxSnapshots          = 65536
	MaxSnapshotTableBytes = 1024 * MaxSnapshots
	MaxSnapshotExtra      = 1024 // bytes of an entry
	MaxSnapshotDisk       = 1 << 62
	MaxBackingFormat      = 16 // bytes
)

// SectorSize is the unit of the size of a disk, in bytes.
const SectorSize = 512

// Places in the file of header fields that are written by themselves.
const (
	SizeOffset          = 24
	L1Offset            = 36 // entries (32 bits), then offset of the L1 table
	RefcountTableOffset = 48 // offset, then clusters (32 bits)
	SnapshotsOffset     = 60 // number (32 bits), then offset
	IncompatibleOffset  = 72
	HeaderLengthOffset  = 100 // behind the width of refcounts
)

// WholeSectors is the size of a disk whose image says size: QEMU shows whole sectors
// only.
func WholeSectors(size uint64) int64 { return int64(size &^ (SectorSize - 1)) }
