package qemunbd

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/cowl-disk/cowl/block"
)

// maxPartitions is the highest number of a partition that -P takes.
const maxPartitions = 128

// sectorSize is the unit of partition tables. Those of disks with sectors of 4096
// bytes are recognised by the place of the GPT header.
const sectorSize = 512

// partition is a range of the disk in bytes.
type partition struct{ off, n int64 }

// findPartition looks up partition number in the table of a disk: a GUID partition
// table (UEFI specification, section 5.3) or a master boot record, whose logical
// partitions count from 5.
func findPartition(ctx context.Context, img *block.Image, number int) (partition, error) {
	var mbr [sectorSize]byte
	if err := readFull(ctx, img, mbr[:], 0); err != nil {
		return partition{}, err
	}
	if mbr[510] != 0x55 || mbr[511] != 0xaa {
		return partition{}, fmt.Errorf("Could not find partition %d: the image has no partition table", number)
	}
	for i := range 4 {
		if entryOf(mbr[:], i).kind == 0xee {
			return gptPartition(ctx, img, number)
		}
	}
	p, err := mbrPartition(ctx, img, mbr[:], number)
	if err != nil {
		return p, err
	}
	return p.check(img, number)
}

// check refuses a partition that reaches beyond the disk.
func (p partition) check(img *block.Image, number int) (partition, error) {
	if p.off < 0 || p.n <= 0 || p.off > img.Size()-p.n {
		return p, fmt.Errorf("Partition %d (%d bytes at %d) does not lie in the image, which has %d bytes", number, p.n, p.off, img.Size())
	}
	return p, nil
}

func readFull(ctx context.Context, img *block.Image, p []byte, off int64) error {
	n, err := img.ReadAt(ctx, p, off)
	if n < len(p) {
		return fmt.Errorf("Could not read the partition table at %d: %w", off, err)
	}
	return nil
}

// mbrEntry is an entry of a master boot record, in sectors.
type mbrEntry struct {
	kind     byte
	start, n int64
}

func entryOf(sector []byte, i int) mbrEntry {
	e := sector[446+16*i:]
	return mbrEntry{kind: e[4], start: int64(binary.LittleEndian.Uint32(e[8:])), n: int64(binary.LittleEndian.Uint32(e[12:]))}
}

func (e mbrEntry) extended() bool { return e.kind == 5 || e.kind == 0xf || e.kind == 0x85 }

// mbrPartition finds a primary partition (1 to 4) or one of the chain of extended
// boot records.
func mbrPartition(ctx context.Context, img *block.Image, mbr []byte, number int) (partition, error) {
	missing := fmt.Errorf("Could not find partition %d", number)
	if number <= 4 {
		e := entryOf(mbr, number-1)
		if e.kind == 0 || e.n == 0 {
			return partition{}, missing
		}
		return partition{e.start * sectorSize, e.n * sectorSize}, nil
	}
	var base int64
	for i := range 4 {
		if e := entryOf(mbr, i); e.extended() {
			base = e.start
			break
		}
	}
	// Each record has one logical partition, relative to itself, and the next
	// record, relative to the first. The bound on their number ends loops.
	at := base
	for n := 5; at != 0 && n <= maxPartitions; n++ {
		var ebr [sectorSize]byte
		if err := readFull(ctx, img, ebr[:], at*sectorSize); err != nil {
			return partition{}, err
		}
		if ebr[510] != 0x55 || ebr[511] != 0xaa {
			break
		}
		e, next := entryOf(ebr[:], 0), entryOf(ebr[:], 1)
		if n == number {
			if e.kind == 0 || e.n == 0 {
				break
			}
			return partition{(at + e.start) * sectorSize, e.n * sectorSize}, nil
		}
		if !next.extended() || next.n == 0 {
			break
		}
		at = base + next.start
	}
	return partition{}, missing
}

// Limits on what a GPT header may say.
const (
	gptMinEntry   = 128
	gptMaxEntry   = 4096
	gptMaxEntries = 1024
)

// gptPartition finds a partition in the primary table, or in the backup at the end
// of the disk where the primary is damaged.
func gptPartition(ctx context.Context, img *block.Image, number int) (partition, error) {
	var first error
	for _, unit := range []int64{512, 4096} {
		for _, at := range []int64{unit, img.Size()/unit*unit - unit} {
			p, err := gptAt(ctx, img, at, unit, number)
			if err == nil {
				return p.check(img, number)
			}
			if err.sound {
				return partition{}, err
			}
			if first == nil {
				first = err
			}
		}
	}
	return partition{}, first
}

// gptError says why a table does not give the partition. No other table is asked if
// this one is sound.
type gptError struct {
	sound bool
	msg   string
}

func (e *gptError) Error() string { return e.msg }

func gptAt(ctx context.Context, img *block.Image, at, unit int64, number int) (partition, *gptError) {
	bad := func(format string, args ...any) (partition, *gptError) {
		return partition{}, &gptError{msg: fmt.Sprintf(format, args...)}
	}
	h := make([]byte, unit)
	if err := readFull(ctx, img, h, at); err != nil {
		return bad("%v", err)
	}
	size := binary.LittleEndian.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || size < 92 || int64(size) > unit {
		return bad("The GUID partition table is damaged: no header at %d", at)
	}
	sum := binary.LittleEndian.Uint32(h[16:])
	copy(h[16:20], make([]byte, 4))
	if crc32.ChecksumIEEE(h[:size]) != sum {
		return bad("The GUID partition table is damaged: wrong checksum of the header at %d", at)
	}
	entries, count, entry := binary.LittleEndian.Uint64(h[72:]), int64(binary.LittleEndian.Uint32(h[80:])), int64(binary.LittleEndian.Uint32(h[84:]))
	if entry < gptMinEntry || entry > gptMaxEntry || count > gptMaxEntries || entries > uint64(img.Size()/unit) {
		return bad("The GUID partition table is damaged: %d entries of %d bytes", count, entry)
	}
	table := make([]byte, count*entry)
	if err := readFull(ctx, img, table, int64(entries)*unit); err != nil {
		return bad("%v", err)
	}
	if crc32.ChecksumIEEE(table) != binary.LittleEndian.Uint32(h[88:]) {
		return bad("The GUID partition table is damaged: wrong checksum of its entries")
	}
	missing := &gptError{sound: true, msg: fmt.Sprintf("Could not find partition %d", number)}
	if int64(number) > count {
		return partition{}, missing
	}
	e := table[int64(number-1)*entry:]
	if [16]byte(e[:16]) == [16]byte{} {
		return partition{}, missing
	}
	start, end := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if start > end || end >= uint64(img.Size()/unit) {
		return partition{}, &gptError{sound: true, msg: fmt.Sprintf("Partition %d does not lie in the image", number)}
	}
	return partition{int64(start) * unit, int64(end-start+1) * unit}, nil
}
