package ondisk

import "encoding/binary"

// Bits of L1 and L2 table entries (sections "Cluster mapping", "L2 table entry").
const (
	OffsetMask     uint64 = 0x00fffffffffffe00 // bits 9 to 55
	FlagCopied     uint64 = 1 << 63            // refcount is exactly one
	FlagCompressed uint64 = 1 << 62
	FlagZero       uint64 = 1 << 0 // version 3, standard clusters without subclusters

	L1ReservedMask        uint64 = 0x7f000000000001ff
	L2StdReservedMask     uint64 = 0x3f000000000001fe
	ReftReservedMask      uint64 = 0x00000000000001ff
	CompressedSector             = 512
	SubclustersPerCluster        = 32
)

// L2Entry is one entry of an L2 table. Bitmap is zero unless the image has
// extended L2 entries: bits 0 to 31 are the allocation status of subclusters 0
// to 31, bits 32 to 63 say that they read as zeroes.
type L2Entry struct{ Desc, Bitmap uint64 }

// L2EntrySize returns the size of an entry in bytes.
func L2EntrySize(extended bool) int {
	if extended {
		return 16
	}
	return 8
}

// LoadL2 reads entry i of the table b.
func LoadL2(b []byte, i int, extended bool) L2Entry {
	if extended {
		return L2Entry{binary.BigEndian.Uint64(b[i*16:]), binary.BigEndian.Uint64(b[i*16+8:])}
	}
	return L2Entry{Desc: binary.BigEndian.Uint64(b[i*8:])}
}

// StoreL2 writes entry i of the table b.
func StoreL2(b []byte, i int, extended bool, e L2Entry) {
	if extended {
		binary.BigEndian.PutUint64(b[i*16:], e.Desc)
		binary.BigEndian.PutUint64(b[i*16+8:], e.Bitmap)
		return
	}
	binary.BigEndian.PutUint64(b[i*8:], e.Desc)
}

// Compressed describes where a compressed cluster is: Size is the number of
// bytes up to the end of the last 512-byte sector that it may touch.
type Compressed struct{ Offset, Size int64 }

// DecodeCompressed reads a Compressed Clusters Descriptor.
func DecodeCompressed(desc uint64, clusterBits uint32) Compressed {
	x := 62 - (clusterBits - 8)
	off := desc & (1<<x - 1)
	sectors := (desc &^ (FlagCopied | FlagCompressed)) >> x
	return Compressed{int64(off), int64(sectors+1)*CompressedSector - int64(off%CompressedSector)}
}

// EncodeCompressed makes the descriptor of n bytes at off. Both must fit: see
// MaxCompressedOffset; n is at most a cluster.
func EncodeCompressed(off, n int64, clusterBits uint32) uint64 {
	x := 62 - (clusterBits - 8)
	sectors := uint64((off+n-1)/CompressedSector - off/CompressedSector)
	return FlagCompressed | uint64(off) | sectors<<x
}

// MaxCompressedOffset returns the first host offset that a compressed cluster
// descriptor cannot hold.
func MaxCompressedOffset(clusterBits uint32) int64 {
	return int64(min(uint64(1)<<(62-(clusterBits-8)), 1<<56))
}

// GetRefcount reads entry i of a refcount block whose entries are 1<<order bits
// wide (section "Refcounts"). Entries narrower than a byte start at the least
// significant bit.
func GetRefcount(b []byte, i int, order uint32) uint64 {
	switch order {
	case 0, 1, 2:
		perByte := 8 >> order
		shift := uint(i%perByte) << order
		return uint64(b[i/perByte]>>shift) & (1<<(1<<order) - 1)
	case 3:
		return uint64(b[i])
	case 4:
		return uint64(binary.BigEndian.Uint16(b[2*i:]))
	case 5:
		return uint64(binary.BigEndian.Uint32(b[4*i:]))
	default:
		return binary.BigEndian.Uint64(b[8*i:])
	}
}

// SetRefcount writes entry i; v must be at most MaxRefcount(order).
func SetRefcount(b []byte, i int, order uint32, v uint64) {
	switch order {
	case 0, 1, 2:
		perByte := 8 >> order
		shift := uint(i%perByte) << order
		mask := byte(1<<(1<<order)-1) << shift
		b[i/perByte] = b[i/perByte]&^mask | byte(v)<<shift
	case 3:
		b[i] = byte(v)
	case 4:
		binary.BigEndian.PutUint16(b[2*i:], uint16(v))
	case 5:
		binary.BigEndian.PutUint32(b[4*i:], uint32(v))
	default:
		binary.BigEndian.PutUint64(b[8*i:], v)
	}
}

// MaxRefcount returns the highest refcount that 1<<order bits hold.
func MaxRefcount(order uint32) uint64 {
	if order >= 6 {
		return 1<<63 - 1 // QEMU keeps refcounts in a signed 64-bit integer
	}
	return 1<<(1<<order) - 1
}
