package qcow2

import (
	"errors"
	"strconv"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// snapshotTable is the snapshot table as it was read for a check.
type snapshotTable struct {
	entries []ondisk.Snapshot
	bytes   int64 // in the file
}

// snapshotResult counts what is wrong with the snapshot table, which is added
// to the result when all else was checked.
type snapshotResult struct{ corruptions, fixed, errors int64 }

// readSnapshotTable reads and verifies the snapshot table. With fix.Errors it
// drops from it, in memory, what is too much.
func (c *checker) readSnapshotTable(res *snapshotResult) error {
	n, off := int64(c.hdr.NbSnapshots), int64(c.hdr.SnapshotsOffset)
	if n > maxSnapshots && c.fix.Errors {
		c.say("Discarding %d overhanging snapshots", n-maxSnapshots)
		res.corruptions += n - maxSnapshots
		n = maxSnapshots
	}
	if n > maxSnapshots {
		res.errors++
		c.say("ERROR snapshot table too large")
		c.report("You can force-remove all " + strconv.FormatInt(n-maxSnapshots, 10) + " overhanging snapshots by repairing the image")
		return errCheck(textTooLarge)
	}
	if n == 0 {
		return nil
	}
	if off < 0 || off > 1<<62 || off&(c.cs-1) != 0 {
		res.errors++
		c.say("ERROR snapshot table offset invalid")
		return errCheck(textInvalid)
	}
	pos, at := off, off
	var buf []byte
	for i := range n {
		s, length, err := c.nextSnapshot(&buf, pos, &at)
		if err != nil {
			res.errors++
			c.say("ERROR failed to read the snapshot table: %v", err)
			return errCheck(textIO)
		}
		if len(s.ExtraUnknown) > maxSnapshotExtra-snapshotExtraKnown {
			extra := len(s.ExtraUnknown) + snapshotExtraKnown
			if !c.fix.Errors {
				res.errors++
				c.say("ERROR failed to read the snapshot table: Too much extra metadata in snapshot table entry %d", i)
				c.report("You can force-remove this extra metadata by updating the image via qemu-img check -r all")
				return errCheck(textTooLarge)
			}
			c.say("Discarding too much extra metadata in snapshot table entry %d (%d > %d)", i, extra, maxSnapshotExtra)
			res.corruptions++
			s.ExtraUnknown = s.ExtraUnknown[:maxSnapshotExtra-snapshotExtraKnown]
		}
		pos += int64(length)
		if pos-off > maxSnapshotTableBytes {
			if !c.fix.Errors {
				res.errors++
				c.say("ERROR failed to read the snapshot table: Snapshot table is too big")
				c.report("You can force-remove all " + strconv.FormatInt(n-i, 10) + " overhanging snapshots by repairing the image")
				return errCheck(textTooLarge)
			}
			c.say("Discarding %d overhanging snapshots (snapshot table is too big)", n-i)
			res.corruptions += n - i
			break
		}
		if err := c.budget.Table("snapshot table", int64(length)); err != nil {
			return err
		}
		defer c.budget.Release(int64(length))
		c.snapshots.entries = append(c.snapshots.entries, s)
		c.snapshots.bytes = pos - off
		if c.hdr.Version >= 3 && !s.HasDiskSize {
			res.corruptions++
			c.say("%s snapshot table entry %d is incomplete", verb(c.fix.Errors), i)
		}
	}
	return nil
}

// snapshotExtraKnown is the length of the extra data that has a meaning.
const snapshotExtraKnown = 24

// maxExtraRead bounds the extra data of an entry that is read to be dropped.
const maxExtraRead = 1 << 20

// nextSnapshot decodes the entry at pos; buf holds the file from there to at.
func (c *checker) nextSnapshot(buf *[]byte, pos int64, at *int64) (ondisk.Snapshot, int, error) {
	for {
		s, n, err := ondisk.DecodeSnapshot(*buf)
		if err == nil && (n < len(*buf) || *at >= c.fileSize) {
			*buf = (*buf)[n:]
			return s, n, nil
		}
		if err != nil && !errors.Is(err, ondisk.ErrShort) {
			return s, 0, err
		}
		if len(*buf) >= 40 && int64(be32((*buf)[36:])) > maxExtraRead {
			return s, 0, errors.New("Too much extra metadata in a snapshot table entry")
		}
		if *at >= c.fileSize+c.cs {
			return s, 0, errors.New(textIO)
		}
		piece := make([]byte, 64<<10)
		if err := readZeroPadded(c.ctx, c.file, piece, *at); err != nil {
			return s, 0, err
		}
		*buf = append(*buf, piece...)
		*at += int64(len(piece))
	}
}
