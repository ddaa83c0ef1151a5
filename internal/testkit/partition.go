package testkit

import (
	"encoding/binary"
	"hash/crc32"
)

// PutMBR writes a boot record into the first sector of b. Its entries have a kind, a
// first sector and a number of sectors.
func PutMBR(b []byte, entries ...[3]uint32) {
	for i, e := range entries {
		at := b[446+16*i:]
		at[4] = byte(e[0])
		binary.LittleEndian.PutUint32(at[8:], e[1])
		binary.LittleEndian.PutUint32(at[12:], e[2])
	}
	b[510], b[511] = 0x55, 0xaa
}

// PutGPT writes both tables of a disk with sectors of unit bytes; parts are the first
// and the last sectors, {} one that is not in use. They have the name "root" and are
// marked for legacy BIOS.
func PutGPT(disk []byte, unit int, parts ...[2]uint64) {
	PutMBR(disk, [3]uint32{0xee, 1, 0xffffffff})
	last := len(disk)/unit - 1
	table := make([]byte, 128*128)
	for i, p := range parts {
		if p[1] == 0 {
			continue
		}
		e := table[128*i:]
		e[0], e[16] = 0xaf, byte(i+1)
		copy(e[56:], "r\x00o\x00o\x00t\x00")
		e[48] = 4
		binary.LittleEndian.PutUint64(e[32:], p[0])
		binary.LittleEndian.PutUint64(e[40:], p[1])
	}
	for _, c := range [][3]int{{1, last, 2}, {last, 1, last - (len(table)+unit-1)/unit}} {
		h := disk[c[0]*unit:]
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], uint64(c[0]))
		binary.LittleEndian.PutUint64(h[32:], uint64(c[1]))
		binary.LittleEndian.PutUint64(h[72:], uint64(c[2]))
		binary.LittleEndian.PutUint32(h[80:], 128)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		copy(disk[c[2]*unit:], table)
	}
}
