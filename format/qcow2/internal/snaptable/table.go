// Package snaptable is the snapshot table of a qcow2 image (section "Snapshots") in
// memory.
package snaptable

import (
	"context"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/internal/safeio"
	"github.com/cowl-disk/cowl/qapi"
)

// Table is the snapshot table as the file has it.
type Table struct {
	Entries []ondisk.Snapshot
	Bytes   int64 // length in the file
	// Short: entries in the file lack what version 3 demands.
	Short bool
}

// Request says what Read reads.
type Request struct {
	File     driver.Storage
	Offset   int64  // of the table in the file
	Count    uint32 // entries
	DiskSize uint64 // of the image, in bytes: for entries that do not have it
	// Reserve counts n bytes of a table against the budget.
	Reserve func(what string, n int64) error
	// CheckL1 judges the place and the length of the L1 table of a snapshot.
	CheckL1 func(s *ondisk.Snapshot) error
}

// Read reads and judges the snapshot table.
func Read(ctx context.Context, req Request) (Table, error) {
	var t Table
	off := req.Offset
	start, chunk := off, int64(64<<10)
	var buf []byte
	for i := range req.Count {
		var s ondisk.Snapshot
		var n int
		for {
			var err error
			if s, n, err = ondisk.DecodeSnapshot(buf); err == nil {
				break
			}
			if len(buf) >= ondisk.SnapshotFixedSize {
				if extra := int64(binary.BigEndian.Uint32(buf[36:])); extra > ondisk.MaxSnapshotExtra {
					return t, driver.Errorf(driver.ErrCorrupt, "too much extra metadata in snapshot table entry %d", i)
				}
			}
			// The longest entry has names of 64 KiB each.
			next := min(int64(len(buf))+chunk, req.File.Size()-off)
			if next <= int64(len(buf)) {
				return t, driver.Errorf(driver.ErrCorrupt, "could not read snapshots: snapshot table entry %d is truncated", i)
			}
			if buf, err = safeio.ReadAt(ctx, req.File, off, next); err != nil {
				return t, driver.Errorf(driver.ErrCorrupt, "could not read snapshots: %w", err)
			}
		}
		if len(s.ExtraUnknown) > ondisk.MaxSnapshotExtra {
			return t, driver.Errorf(driver.ErrCorrupt, "too much extra metadata in snapshot table entry %d", i)
		}
		off += int64(n)
		buf = buf[n:]
		if off-start > ondisk.MaxSnapshotTableBytes {
			return t, driver.Errorf(driver.ErrCorrupt, "snapshot table is too big")
		}
		if !s.HasDiskSize {
			// Only version 2 may have such entries: the size of the disk cannot change
			// there while it has snapshots. The next table says it.
			s.DiskSize, s.HasDiskSize = req.DiskSize, true
			t.Short = true
		}
		if s.DiskSize > ondisk.MaxSnapshotDisk {
			return t, driver.Errorf(driver.ErrCorrupt, "snapshot %q has an invalid disk size", s.ID)
		}
		if err := req.CheckL1(&s); err != nil {
			return t, err
		}
		if err := req.Reserve("Snapshot table", int64(n)); err != nil {
			return t, err
		}
		t.Entries = append(t.Entries, s)
	}
	t.Bytes = off - start
	return t, nil
}

// Find looks for an id first, then for a name.
func (t *Table) Find(idOrName string) *ondisk.Snapshot {
	for i := range t.Entries {
		if t.Entries[i].ID == idOrName {
			return &t.Entries[i]
		}
	}
	for i := range t.Entries {
		if t.Entries[i].Name == idOrName {
			return &t.Entries[i]
		}
	}
	return nil
}

// Encode returns the table as it is stored, with all that version 3 demands.
func Encode(list []ondisk.Snapshot) []byte {
	var b []byte
	for i := range list {
		b = list[i].Append(b, 0)
	}
	return b
}

// NextID returns one more than the highest id that is a number, as
// QEMU counts: other ids are as high as the digits that they begin with.
func NextID(list []ondisk.Snapshot) string {
	var highest uint64
	used := map[string]bool{}
	for i := range list {
		used[list[i].ID] = true
		text := strings.TrimPrefix(strings.TrimLeft(list[i].ID, " \t\n\v\f\r"), "+")
		n := 0
		for n < len(text) && text[n] >= '0' && text[n] <= '9' {
			n++
		}
		if v, err := strconv.ParseUint(text[:n], 10, 64); err == nil {
			highest = max(highest, v)
		}
	}
	for id := highest + 1; ; id++ {
		if s := strconv.FormatUint(id, 10); !used[s] {
			return s
		}
	}
}

// Info describes a snapshot.
func Info(s *ondisk.Snapshot) qapi.SnapshotInfo {
	info := qapi.SnapshotInfo{ID: s.ID, Name: s.Name, VMStateSize: int64(s.VMStateSize),
		DateSec: int64(s.DateSec), DateNsec: int64(s.DateNsec),
		VMClockSec: int64(s.VMClockNsec / 1e9), VMClockNsec: int64(s.VMClockNsec % 1e9)}
	if s.HasIcount {
		icount := int64(s.Icount)
		info.Icount = &icount
	}
	return info
}
