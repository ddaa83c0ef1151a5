package sheepdog

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

// Offsets in an inode.
const (
	inodeTag     = MaxName
	inodeTaken   = 2*MaxName + 8
	inodeSizeAt  = 2*MaxName + 24
	inodeHead    = 2*MaxName + 56 // what is read of it, without the table
	inodeTable   = 2*MaxName + 56 + 4096
	maxTableRead = 1 << 20 // bytes
)

// tableOffset is where in an inode the entry of an object is.
func tableOffset(idx uint32) uint32 { return inodeTable + 4*idx }

// inode is what an inode says, but for the table.
type inode struct {
	name, tag          string
	taken              time.Time // when it became a snapshot
	snapshot           bool      // it is one
	clock              int64     // of the virtual machine, in ns
	size, state        int64     // of the disk and of the saved virtual machine, in bytes
	policy, copies     uint8
	shift              uint8
	tree               bool
	number, vdi, based uint32
}

// objectSize is in bytes.
func (i *inode) objectSize() int64 { return 1 << i.shift }

// objects is how many objects size bytes take.
func (i *inode) objects(size int64) uint32 {
	return uint32((size + i.objectSize() - 1) >> i.shift)
}

// maxSize is the size of the largest VDI of such objects.
func maxSize(shift uint8) int64 { return MaxObjects << shift }

// parseInode reads inodeHead bytes.
func parseInode(b []byte) (*inode, error) {
	le := binary.LittleEndian
	const after = 2 * MaxName
	i := &inode{name: text(b[:MaxName]), tag: text(b[MaxName:after])}
	// Seconds are in the upper half of a time, nanoseconds in the lower one.
	if t := le.Uint64(b[after+8:]); t != 0 {
		i.snapshot, i.taken = true, time.Unix(int64(t>>32), int64(uint32(t)))
	}
	i.clock = int64(le.Uint64(b[after+16:]))
	size, state := le.Uint64(b[inodeSizeAt:]), le.Uint64(b[after+32:])
	i.policy, i.tree, i.copies, i.shift = b[after+40], b[after+41] != 0, b[after+42], b[after+43]
	i.number, i.vdi, i.based = le.Uint32(b[after+44:]), le.Uint32(b[after+48:]), le.Uint32(b[after+52:])
	if i.shift == 0 {
		i.shift = DefaultShift // before there was a choice
	}
	switch {
	case i.shift < MinShift || i.shift > MaxShift:
		return nil, protocolError("an inode says that its objects have 2^%d bytes", i.shift)
	case i.vdi == 0 || i.vdi >= vdiCount:
		return nil, protocolError("an inode says that its number is %#x", i.vdi)
	case state > 1<<62:
		return nil, protocolError("an inode says that the state of a virtual machine takes %d bytes", state)
	case i.tree && size <= 1<<62:
	case size > uint64(maxSize(i.shift)):
		return nil, protocolError("an inode says that the disk has %d bytes, in objects of 2^%d", size, i.shift)
	}
	i.size, i.state = int64(size), int64(state)
	return i, nil
}

// inode reads an inode, without its table.
func (c *Client) inode(ctx context.Context, vdi uint32) (*inode, error) {
	var b [inodeHead]byte
	if err := c.read(ctx, inodeObject(vdi), 0, b[:]); err != nil {
		return nil, message.Errorf(nil, "reading the inode of VDI %x: %w", vdi, err)
	}
	i, err := parseInode(b[:])
	if err == nil && i.vdi != vdi {
		err = protocolError("the inode of VDI %x says that it is that of %x", vdi, i.vdi)
	}
	return i, err
}

// table reads entries of a table.
func (c *Client) table(ctx context.Context, i *inode, from, to uint32) ([]uint32, error) {
	if to <= from {
		return nil, nil
	}
	b := make([]byte, min(4*int64(to-from), maxTableRead))
	var t []uint32
	for from < to {
		p := b[:min(4*int64(to-from), int64(len(b)))]
		if err := c.read(ctx, inodeObject(i.vdi), int64(tableOffset(from)), p); err != nil {
			return nil, message.Errorf(nil, "reading the table of VDI %x: %w", i.vdi, err)
		}
		for at := 0; at < len(p); at += 4 {
			v := binary.LittleEndian.Uint32(p[at:])
			if v >= vdiCount {
				return nil, protocolError("the table of VDI %x names VDI %x", i.vdi, v)
			}
			t = append(t, v)
		}
		from += uint32(len(p) / 4)
	}
	return t, nil
}
