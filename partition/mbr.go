package partition

import (
	"encoding/binary"
	"fmt"
)

const (
	mbrSize    = 512
	mbrEntries = 4
	// maxLogical bounds the chain of logical partitions. Linux takes no more than 256
	// partitions of a disk, tools make no more than 60.
	maxLogical = 124
	// typeProtective is the entry that protects a GPT from programs which do not know it.
	typeProtective = 0xee
)

// mbrEntry is an entry of a boot record, in sectors.
type mbrEntry struct {
	active   bool
	kind     byte
	start, n int64
}

func entryOf(sector *[mbrSize]byte, i int) mbrEntry {
	e := sector[446+16*i:]
	return mbrEntry{active: e[0] == 0x80, kind: e[4],
		start: int64(binary.LittleEndian.Uint32(e[8:])), n: int64(binary.LittleEndian.Uint32(e[12:]))}
}

func (e mbrEntry) empty() bool { return e.kind == 0 || e.n == 0 }

func extended(kind byte) bool { return kind == 0x05 || kind == 0x0f || kind == 0x85 }

func signed(sector *[mbrSize]byte) bool { return sector[510] == 0x55 && sector[511] == 0xaa }

// partition makes a partition of an entry whose start counts from sector base.
func (e mbrEntry) partition(number int, base int64) Partition {
	return Partition{Number: number, Start: (base + e.start) * mbrSize, Length: e.n * mbrSize, Type: e.kind, Bootable: e.active}
}

// readMBR reads the primary partitions, and the logical ones of the first extended one.
func readMBR(d reader, mbr *[mbrSize]byte) (*Table, error) {
	t := &Table{Scheme: MBR, SectorSize: mbrSize, DiskID: binary.LittleEndian.Uint32(mbr[440:])}
	var first int64
	for i := range mbrEntries {
		e := entryOf(mbr, i)
		if !e.empty() {
			t.add(e.partition(i+1, 0), d.size)
		}
		if first == 0 && extended(e.kind) {
			first = e.start
		}
	}
	if first == 0 {
		return t, nil
	}
	return t, readLogical(d, t, first)
}

// readLogical follows the chain of extended boot records that begins at sector first.
// Each has one logical partition, relative to itself, and the next record, relative
// to the first one.
func readLogical(d reader, t *Table, first int64) error {
	seen := map[int64]bool{}
	at := first
	for number := 5; ; number++ {
		if seen[at] || len(seen) == maxLogical {
			return fmt.Errorf("%w: the chain of logical partitions does not end at partition %d (sector %d)", ErrDamaged, number-1, at)
		}
		seen[at] = true
		var ebr [mbrSize]byte
		if err := d.full(ebr[:], at*mbrSize); err != nil {
			return err
		}
		if !signed(&ebr) {
			if number == 5 {
				return nil // an extended partition in which none was made yet
			}
			return fmt.Errorf("%w: no record of partition %d at sector %d", ErrDamaged, number, at)
		}
		e, next := entryOf(&ebr, 0), entryOf(&ebr, 1)
		if !e.empty() {
			t.add(e.partition(number, at), d.size)
		}
		if !extended(next.kind) || next.n == 0 {
			return nil
		}
		at = first + next.start
	}
}
