package fat

import (
	"cmp"
	"encoding/binary"
	"fmt"
)

// SectorSize in bytes, of all volumes here.
const SectorSize = 512

const (
	tables       = 2
	infoSector   = 1 // of FAT32
	backupSector = 6
	rootCluster  = 2 // of FAT32
	mostCluster  = 0x0ffffff5 - 2

	// Numbers of clusters from which on a file system counts as FAT16 and FAT32 (section 3.5).
	leastFAT16, leastFAT32 = 4085, 65525
)

// Volume says where things are in a file system. Offsets are from its beginning.
type Volume struct {
	Bits           int   // of an entry in the tables: 12, 16, 32
	Sectors        int64 // of the whole volume
	ClusterSectors int64 // a power of two up to 128
	RootEntries    int64 // of FAT12 and FAT16: a multiple of 16

	Hidden              uint32 // sectors on the disk before the volume
	Heads, TrackSectors uint16
	Floppy              bool
	Serial              uint32
	System              string // up to 8 characters, what made it; "" says MSWIN4.1, which some systems want
	Label               [11]byte

	// Set by Fit.
	Reserved     int64 // sectors before the tables
	TableSectors int64 // of one table
	Clusters     int64 // that hold data, from number 2 on
}

// Fit computes the tables' size and the number of clusters, and says whether the volume can be
// of its type.
func (v *Volume) Fit() error {
	least, most := int64(1), v.MostClusters()
	v.Reserved = 1
	switch v.Bits {
	case 16:
		least = leastFAT16
	case 32:
		v.Reserved, v.RootEntries = 32, 0
		least = leastFAT32
	}
	for v.TableSectors = 1; ; v.TableSectors++ {
		v.Clusters = (v.Sectors - v.Reserved - tables*v.TableSectors - v.RootEntries*EntrySize/SectorSize) / v.ClusterSectors
		need := ((v.Clusters+2)*int64(v.Bits) + 7) / 8
		if need = (need + SectorSize - 1) / SectorSize; need <= v.TableSectors || v.Clusters <= 0 {
			break
		}
		// A table of need sectors leaves fewer clusters, so that half the way is not too far.
		v.TableSectors += max(0, (need-v.TableSectors)/2-1)
	}
	if v.Clusters < least || v.Clusters > most || v.Sectors > 1<<32-1 {
		return fmt.Errorf("a volume of %d sectors has %d clusters, but FAT%d has %d to %d", v.Sectors, max(v.Clusters, 0), v.Bits, least, most)
	}
	return nil
}

// MostClusters is how many clusters a volume of the type has at most.
func (v *Volume) MostClusters() int64 {
	switch v.Bits {
	case 12:
		return leastFAT16 - 1
	case 16:
		return leastFAT32 - 1
	}
	return mostCluster
}

// Tables returns the offsets of the tables, which have the same contents, in bytes.
func (v *Volume) Tables() [tables]int64 {
	return [tables]int64{v.TableStart(), v.TableStart() + v.TableSectors*SectorSize}
}

// ClusterSize in bytes.
func (v *Volume) ClusterSize() int64 { return v.ClusterSectors * SectorSize }

// TableStart is the offset of the first table in bytes.
func (v *Volume) TableStart() int64 { return v.Reserved * SectorSize }

// RootStart is the offset of the root directory of FAT12 and FAT16, which the data follow.
func (v *Volume) RootStart() int64 { return (v.Reserved + tables*v.TableSectors) * SectorSize }

// RootSize is the room for the root directory in bytes, 0 for FAT32.
func (v *Volume) RootSize() int64 { return v.RootEntries * EntrySize }

// DataStart is the offset of cluster 2.
func (v *Volume) DataStart() int64 { return v.RootStart() + v.RootSize() }

// Offset of a cluster in bytes.
func (v *Volume) Offset(cluster uint32) int64 {
	return v.DataStart() + (int64(cluster)-2)*v.ClusterSize()
}

// End marks the last cluster of a chain. Bigger values than End-7 do, too.
func (v *Volume) End() uint32 { return 1<<min(v.Bits, 28) - 1 }

// First returns the first two entries of the tables, which are of no cluster.
func (v *Volume) First() [2]uint32 { return [2]uint32{v.End()&^0xff | uint32(v.media()), v.End()} }

func (v *Volume) media() byte {
	if v.Floppy {
		return 0xf0
	}
	return 0xf8
}

// PutEntry sets an entry of a table, whose bytes are zero and begin in b with those of cluster 0.
func (v *Volume) PutEntry(b []byte, cluster int64, value uint32) {
	switch v.Bits {
	case 12:
		at, shift := cluster*3/2, uint(cluster&1)*4
		b[at] |= byte(value << shift)
		b[at+1] |= byte(value << shift >> 8)
	case 16:
		binary.LittleEndian.PutUint16(b[2*cluster:], uint16(value))
	default:
		binary.LittleEndian.PutUint32(b[4*cluster:], value)
	}
}

// entry returns an entry of a table that begins in b.
func (v *Volume) entry(b []byte, cluster int64) uint32 {
	switch v.Bits {
	case 12:
		at := cluster * 3 / 2
		return uint32(binary.LittleEndian.Uint16(b[at:])) >> (cluster & 1 * 4) & 0xfff
	case 16:
		return uint32(binary.LittleEndian.Uint16(b[2*cluster:]))
	}
	return binary.LittleEndian.Uint32(b[4*cluster:]) & 0x0fffffff
}

// Head returns the reserved sectors. free is the number of free clusters and next where to
// look for one.
func (v *Volume) Head(free, next int64) []byte {
	b := make([]byte, v.Reserved*SectorSize)
	copy(b, v.boot())
	if v.Bits == 32 {
		info := v.info(free, next)
		copy(b[infoSector*SectorSize:], info)
		copy(b[backupSector*SectorSize:], v.boot())
		copy(b[(backupSector+infoSector)*SectorSize:], info)
	}
	return b
}

// boot is the first sector (section 3).
func (v *Volume) boot() []byte {
	b := make([]byte, SectorSize)
	le := binary.LittleEndian
	copy(b, fmt.Sprintf("\xeb\x3c\x90%-8.8s", cmp.Or(v.System, "MSWIN4.1")))
	le.PutUint16(b[11:], SectorSize)
	b[13] = byte(v.ClusterSectors)
	le.PutUint16(b[14:], uint16(v.Reserved))
	b[16] = tables
	le.PutUint16(b[17:], uint16(v.RootEntries))
	if v.Bits != 32 && v.Sectors < 1<<16 {
		le.PutUint16(b[19:], uint16(v.Sectors))
	} else {
		le.PutUint32(b[32:], uint32(v.Sectors))
	}
	b[21] = v.media()
	le.PutUint16(b[24:], v.TrackSectors)
	le.PutUint16(b[26:], v.Heads)
	le.PutUint32(b[28:], v.Hidden)
	tail := b[36:]
	if v.Bits == 32 {
		b[1] = 0x58
		le.PutUint32(b[36:], uint32(v.TableSectors))
		le.PutUint32(b[44:], rootCluster)
		le.PutUint16(b[48:], infoSector)
		le.PutUint16(b[50:], backupSector)
		tail = b[64:]
	} else {
		le.PutUint16(b[22:], uint16(v.TableSectors))
	}
	if !v.Floppy {
		tail[0] = 0x80 // the first fixed disk
	}
	tail[2] = 0x29
	le.PutUint32(tail[3:], v.Serial)
	copy(tail[7:], v.Label[:])
	copy(tail[18:], fmt.Sprintf("FAT%d   ", v.Bits))
	copy(tail[26:], "\xcd\x18\xf4\xeb\xfd") // int 18h: the firmware goes on; else halt
	b[510], b[511] = 0x55, 0xaa
	return b
}

// info is the sector with the number of free clusters (section 5).
func (v *Volume) info(free, next int64) []byte {
	b := make([]byte, SectorSize)
	le := binary.LittleEndian
	le.PutUint32(b, 0x41615252)
	le.PutUint32(b[484:], 0x61417272)
	le.PutUint32(b[488:], uint32(free))
	le.PutUint32(b[492:], uint32(min(next, v.Clusters+1)))
	le.PutUint32(b[508:], 0xaa550000)
	return b
}

// sameShape says whether a boot sector describes this volume: what a system changes in it
// otherwise (its name, flags, code) does not matter.
func (v *Volume) sameShape(boot []byte) bool {
	own, end := v.boot(), 36
	if v.Bits == 32 {
		end = 52
	}
	for i := 11; i < end; i++ {
		if i >= 24 && i < 32 { // the geometry, and what is before the volume
			continue
		}
		if boot[i] != own[i] {
			return false
		}
	}
	return binary.LittleEndian.Uint16(boot[510:]) == 0xaa55
}
