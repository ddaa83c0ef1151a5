package check

import (
	"encoding/binary"
	"strconv"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// snapshotTable is the snapshot table as it was read for a check.
type snapshotTable struct {
	entries []ondisk.Snapshot
	bytes   int64 // in the file
	kept    int64 // bytes without what is dropped
	// reserved is what the entries take of the budget.
	reserved int64
}

// snapshotResult counts what is wrong with the snapshot table, which is added
// to the result when all else was checked.
type snapshotResult struct{ corruptions, fixed, errors int64 }

// readSnapshotTable reads and verifies the snapshot table. With fix.Errors it
// drops from it, in memory, what is too much.
func (c *checker) readSnapshotTable(res *snapshotResult) error {
	n, off := int64(c.hdr.NbSnapshots), int64(c.hdr.SnapshotsOffset)
	dropped := int64(0)
	if n > ondisk.MaxSnapshots && c.fix.Errors {
		c.say("Discarding %d overhanging snapshots", n-ondisk.MaxSnapshots)
		dropped, n = n-ondisk.MaxSnapshots, ondisk.MaxSnapshots
	}
	if n > ondisk.MaxSnapshots {
		res.errors++
		c.say("ERROR snapshot table too large")
		c.report("You can force-remove all " + strconv.FormatInt(n-ondisk.MaxSnapshots, 10) + " overhanging snapshots with qemu-img check -r all")
		return errCheck(driver.ErrTooLarge)
	}
	if n == 0 {
		return nil
	}
	if off < 0 || off > 1<<62 || off&(c.cs-1) != 0 {
		res.errors++
		c.say("ERROR snapshot table offset invalid")
		return errCheck(syscall.EINVAL)
	}
	w := fileWindow{checker: c}
	defer func() { c.budget.Release(c.snapshots.reserved) }()
	pos := off
	for i := range n {
		s, length, extra, err := w.snapshot(pos)
		if err != nil {
			res.errors++
			c.say("ERROR failed to read the snapshot table: %s", c.words(err))
			return errCheck(syscall.EIO)
		}
		if extra > ondisk.MaxSnapshotExtra {
			if !c.fix.Errors {
				res.errors++
				c.say("ERROR failed to read the snapshot table: Too much extra metadata in snapshot table entry %d", i)
				c.report("You can force-remove this extra metadata with qemu-img check -r all")
				return errCheck(driver.ErrTooLarge)
			}
			c.say("Discarding too much extra metadata in snapshot table entry %d (%d > %d)", i, extra, ondisk.MaxSnapshotExtra)
			res.corruptions++
		}
		pos += length
		kept := length - max(0, extra-ondisk.MaxSnapshotExtra)
		if c.snapshots.kept += kept; c.snapshots.kept > ondisk.MaxSnapshotTableBytes {
			if !c.fix.Errors {
				res.errors++
				c.say("ERROR failed to read the snapshot table: Snapshot table is too big")
				c.report("You can force-remove all " + strconv.FormatInt(n-i, 10) + " overhanging snapshots with qemu-img check -r all")
				return errCheck(driver.ErrTooLarge)
			}
			c.say("Discarding %d overhanging snapshots (snapshot table is too big)", n-i)
			dropped += n - i
			break
		}
		if err := c.budget.Table("snapshot table", kept); err != nil {
			return err
		}
		c.snapshots.reserved += kept
		c.snapshots.entries = append(c.snapshots.entries, s)
		c.snapshots.bytes = pos - off
	}
	if dropped > 0 {
		// Before the room of what is dropped is given back, the header must not name
		// it any more. The entries that stay are where they were.
		if err := c.dropSnapshots(dropped, res); err != nil {
			return err
		}
	}
	for i := range c.snapshots.entries {
		if s := &c.snapshots.entries[i]; s.HasDiskSize && s.DiskSize > ondisk.MaxSnapshotDisk {
			res.corruptions++
			c.say("%s snapshot %s (%s) disk_size=%s: the disk is too large", verb(c.fix.Errors), s.ID, s.Name, hex(s.DiskSize))
			s.HasDiskSize = false
			continue
		}
		if c.hdr.Version >= 3 && !c.snapshots.entries[i].HasDiskSize {
			res.corruptions++
			c.say("%s snapshot table entry %d is incomplete", verb(c.fix.Errors), i)
		}
	}
	return nil
}

// dropSnapshots lets the header name only the entries that were read, dropped fewer
// than before.
func (c *checker) dropSnapshots(dropped int64, res *snapshotResult) error {
	n := uint32(len(c.snapshots.entries))
	err := c.writeHeader(ondisk.SnapshotsOffset, binary.BigEndian.AppendUint32(nil, n))
	if err == nil {
		err = c.file.Flush(c.ctx)
	}
	if err != nil {
		c.say("ERROR failed to update the number of snapshots: %s", c.words(err))
		res.corruptions += dropped
		res.errors++
		return errCheck(syscall.EIO)
	}
	c.hdr.NbSnapshots = n
	res.fixed += dropped
	return nil
}

// fileWindow reads small pieces that follow each other.
type fileWindow struct {
	*checker
	b   []byte
	off int64
}

// at returns the n bytes at off, which are valid until the next call.
func (w *fileWindow) at(off, n int64) ([]byte, error) {
	if off < w.off || off+n > w.off+int64(len(w.b)) {
		if size := max(n, 64<<10); int64(cap(w.b)) < size {
			w.b = make([]byte, size)
		}
		w.off, w.b = off, w.b[:cap(w.b)]
		if err := tableio.ReadPadded(w.ctx, w.file, w.b, off); err != nil {
			w.b = nil
			return nil, err
		}
	}
	return w.b[off-w.off:][:n], nil
}

// snapshot decodes the entry at pos. It returns the length of the entry and of
// its extra data in the file; of extra data beyond what is legal the start is
// kept.
func (w *fileWindow) snapshot(pos int64) (s ondisk.Snapshot, length, extra int64, err error) {
	b, err := w.at(pos, ondisk.SnapshotFixedSize)
	if err != nil {
		return s, 0, 0, err
	}
	extra = int64(binary.BigEndian.Uint32(b[36:]))
	names := int64(binary.BigEndian.Uint16(b[12:])) + int64(binary.BigEndian.Uint16(b[14:]))
	kept := min(extra, ondisk.MaxSnapshotExtra)
	entry := append([]byte(nil), b[:36]...)
	entry = binary.BigEndian.AppendUint32(entry, uint32(kept))
	if b, err = w.at(pos+ondisk.SnapshotFixedSize, kept); err != nil {
		return s, 0, 0, err
	}
	entry = append(entry, b...)
	if b, err = w.at(pos+ondisk.SnapshotFixedSize+extra, names); err != nil {
		return s, 0, 0, err
	}
	entry = append(entry, b...)
	s, _, err = ondisk.DecodeSnapshot(entry)
	return s, tableio.AlignUp(ondisk.SnapshotFixedSize+extra+names, 8), extra, err
}
