package partition

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"unicode/utf16"
)

// Limits on what a GPT header may say.
const (
	gptMinHeader  = 92
	gptMinEntry   = 128
	gptMaxEntry   = 4096
	gptMaxEntries = 1024

	// gptLegacyBoot is the attribute of partitions that a legacy BIOS may start.
	gptLegacyBoot = 1 << 2
)

// readGPT reads the primary table, or the backup at the end of the disk where the
// primary is damaged. The size of the disk's sectors is not known: the header is in
// the second one.
func readGPT(d reader) (*Table, error) {
	var first error
	for _, unit := range []int64{512, 4096} {
		for i, at := range []int64{unit, d.size/unit*unit - unit} {
			t, err := gptAt(d, at, unit)
			if err == nil {
				t.Backup = i > 0
				return t, nil
			}
			if first == nil || errors.Is(first, ErrDamaged) && !errors.Is(err, ErrDamaged) {
				first = err // a read error is more useful than a missing table
			}
		}
	}
	return nil, first
}

// gptAt reads the table whose header is at a place of a disk with sectors of unit bytes.
func gptAt(d reader, at, unit int64) (*Table, error) {
	h := make([]byte, unit)
	if err := d.full(h, at); err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(h[12:])
	if string(h[:8]) != "EFI PART" || size < gptMinHeader || int64(size) > unit {
		return nil, fmt.Errorf("%w: no GPT header at %d", ErrDamaged, at)
	}
	sum := binary.LittleEndian.Uint32(h[16:])
	clear(h[16:20])
	if crc32.ChecksumIEEE(h[:size]) != sum {
		return nil, fmt.Errorf("%w: wrong checksum of the GPT header at %d", ErrDamaged, at)
	}
	entries, count, entry := binary.LittleEndian.Uint64(h[72:]), int64(binary.LittleEndian.Uint32(h[80:])), int64(binary.LittleEndian.Uint32(h[84:]))
	if entry < gptMinEntry || entry > gptMaxEntry || count > gptMaxEntries || entries > uint64(d.size/unit) {
		return nil, fmt.Errorf("%w: %d GPT entries of %d bytes at sector %d", ErrDamaged, count, entry, entries)
	}
	array := make([]byte, count*entry)
	if err := d.full(array, int64(entries)*unit); err != nil {
		return nil, err
	}
	if crc32.ChecksumIEEE(array) != binary.LittleEndian.Uint32(h[88:]) {
		return nil, fmt.Errorf("%w: wrong checksum of the GPT entries at %d", ErrDamaged, int64(entries)*unit)
	}
	t := &Table{Scheme: GPT, SectorSize: unit, DiskGUID: GUID(h[56:72])}
	for i := range int(count) {
		if p := gptEntry(array[int64(i)*entry:], unit); p.TypeGUID != (GUID{}) {
			p.Number = i + 1
			t.add(p, d.size)
		}
	}
	return t, nil
}

// gptEntry decodes an entry; those that are not in use have no type.
func gptEntry(e []byte, unit int64) Partition {
	p := Partition{TypeGUID: GUID(e[:16]), GUID: GUID(e[16:32]), Attributes: binary.LittleEndian.Uint64(e[48:])}
	p.Bootable = p.Attributes&gptLegacyBoot != 0
	first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
	if limit := uint64(1<<63-1) / uint64(unit); first <= last && last < limit {
		p.Start, p.Length = int64(first)*unit, int64(last-first+1)*unit
	}
	var name []uint16
	for i := 56; i < gptMinEntry; i += 2 {
		u := binary.LittleEndian.Uint16(e[i:])
		if u == 0 {
			break
		}
		name = append(name, u)
	}
	p.Name = string(utf16.Decode(name))
	return p
}
