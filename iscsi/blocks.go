package iscsi

import (
	"context"
	"encoding/binary"
)

// span puts a range of blocks into a command: 16 bytes where 10 do not suffice, or long is
// set.
func (l LUN) span(long bool, op10, op16 byte, lba, blocks uint64) (*Command, bool, error) {
	if !long && lba <= 1<<32-1 && blocks <= 1<<16-1 {
		c := l.command(op10)
		binary.BigEndian.PutUint32(c.CDB[2:], uint32(lba))
		binary.BigEndian.PutUint16(c.CDB[7:], uint16(blocks))
		return c, false, nil
	}
	if blocks > 1<<32-1 {
		return nil, false, tooLong("a range", blocks)
	}
	c := l.command(op16)
	binary.BigEndian.PutUint64(c.CDB[2:], lba)
	binary.BigEndian.PutUint32(c.CDB[10:], uint32(blocks))
	return c, true, nil
}

// Transfer describes a range that is read or written.
type Transfer struct {
	LBA    uint64
	Blocks uint32
	Long   bool // with 16 bytes (Capacity.Long), else where it has to be
	FUA    bool // the data is on the medium when the command ends
}

// Read reads blocks into p, whose length is that of the blocks.
func (l LUN) Read(ctx context.Context, p []byte, t Transfer) error {
	c, _, err := l.span(t.Long, cmdRead10, cmdRead16, t.LBA, uint64(t.Blocks))
	if err != nil {
		return err
	}
	c.In = p
	if err := l.Do(ctx, c); err != nil {
		return err
	}
	if c.N != len(p) {
		return protocolError("the target sends %d bytes of %d", c.N, len(p))
	}
	return nil
}

// Write writes p, whose length is that of the blocks.
func (l LUN) Write(ctx context.Context, p []byte, t Transfer) error {
	c, _, err := l.span(t.Long, cmdWrite10, cmdWrite16, t.LBA, uint64(t.Blocks))
	if err != nil {
		return err
	}
	if t.FUA {
		c.CDB[1] = flagFUA
	}
	c.Out = p
	return l.Do(ctx, c)
}

// WriteSame writes block into every block of a range, or with unmap gives the blocks
// back, if that reads the same. Long asks for the form with 16 bytes.
func (l LUN) WriteSame(ctx context.Context, block []byte, t Transfer, unmap bool) error {
	c, _, err := l.span(t.Long, cmdWriteSame10, cmdWriteSame16, t.LBA, uint64(t.Blocks))
	if err != nil {
		return err
	}
	if unmap {
		c.CDB[1] = flagUnmap
	}
	c.Out = block
	return l.Do(ctx, c)
}

// BlockRange is a range of blocks.
type BlockRange struct {
	LBA    uint64
	Blocks uint32
}

// Unmap gives blocks back; at most Limits.MaxUnmapRanges ranges, and no more than 4095.
func (l LUN) Unmap(ctx context.Context, ranges ...BlockRange) error {
	if len(ranges) > 4095 {
		return tooLong("a list of ranges", uint64(len(ranges)))
	}
	n := 16 * len(ranges)
	p := make([]byte, 8+n)
	binary.BigEndian.PutUint16(p, uint16(6+n))
	binary.BigEndian.PutUint16(p[2:], uint16(n))
	for i, r := range ranges {
		binary.BigEndian.PutUint64(p[8+16*i:], r.LBA)
		binary.BigEndian.PutUint32(p[16+16*i:], r.Blocks)
	}
	c := l.command(cmdUnmap)
	binary.BigEndian.PutUint16(c.CDB[7:], uint16(len(p)))
	c.Out = p
	return l.Do(ctx, c)
}

// Status of a range (SBC-3, 5.9).
const (
	BlockMapped      = 0
	BlockDeallocated = 1
	BlockAnchored    = 2
)

// BlockStatus says whether blocks have room.
type BlockStatus struct {
	BlockRange
	Status byte
}

// maxStatus is how many ranges are asked for at once.
const maxStatus = 64

// Status tells of the blocks from lba on, range by range, each behind the one before. There
// is at least one; they need not reach the end of the unit.
func (l LUN) Status(ctx context.Context, lba uint64) ([]BlockStatus, error) {
	c := l.command(cmdServiceIn16)
	c.CDB[1] = actionLBAStatus
	binary.BigEndian.PutUint64(c.CDB[2:], lba)
	binary.BigEndian.PutUint32(c.CDB[10:], 8+16*maxStatus)
	b, err := l.read(ctx, c, 8+16*maxStatus)
	if err != nil {
		return nil, err
	}
	if len(b) < 8+16 {
		return nil, short("GET LBA STATUS", len(b))
	}
	total := int64(binary.BigEndian.Uint32(b)) - 4
	b = b[8:]
	b = b[:min(int64(len(b)), max(total, 0))]
	var list []BlockStatus
	for at := lba; len(b) >= 16; b = b[16:] {
		s := BlockStatus{BlockRange{binary.BigEndian.Uint64(b), binary.BigEndian.Uint32(b[8:])}, b[12] & 15}
		if s.LBA != at || s.Blocks == 0 {
			break
		}
		at += uint64(s.Blocks)
		list = append(list, s)
	}
	if len(list) == 0 {
		return nil, protocolError("the answer to GET LBA STATUS does not begin at block %d", lba)
	}
	return list, nil
}

// Sync makes what was written durable.
func (l LUN) Sync(ctx context.Context) error {
	return l.Do(ctx, l.command(cmdSyncCache10)) // from block 0, to the end of the unit
}
