package sheepd

import (
	"bytes"
	"encoding/binary"
	"hash/fnv"
)

// Results.
const (
	success    = 0x00
	noObject   = 0x02
	exists     = 0x04
	badParams  = 0x05
	isLocked   = 0x07
	noVDI      = 0x08
	noBase     = 0x09
	noTag      = 0x0e
	notLocked  = 0x10
	badVersion = 0x14
	readOnly   = 0x1a
)

// Where things are in an inode.
const (
	atTag     = 256
	atCreated = 512
	atTaken   = 520
	atSize    = 536
	atPolicy  = 552
	atStore   = 553
	atCopies  = 554
	atShift   = 555
	atNumber  = 556
	atVDI     = 560
	atParent  = 564
	atTable   = 4664
	entries   = 1 << 20
	headSize  = 568
)

func inodeOf(vdi uint32) uint64 { return 1<<63 | uint64(vdi)<<32 }

func (c *Cluster) used(vdi uint32) bool { return c.inUse[vdi/8]>>(vdi%8)&1 != 0 }

// head returns the beginning of an inode, nil if there is none.
func (c *Cluster) head(vdi uint32) []byte {
	o := c.objects[inodeOf(vdi)]
	if o == nil {
		return nil
	}
	b := make([]byte, headSize)
	o.read(b, 0)
	return b
}

func field(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}

// run returns the VDIs of a name, in the order of their numbers, and the first free number.
func (c *Cluster) run(name string) (list []uint32, free uint32) {
	h := fnv.New64a()
	h.Write([]byte(name))
	for vdi := uint32(h.Sum64()) & (1<<24 - 1); ; vdi = (vdi + 1) & (1<<24 - 1) {
		if vdi == 0 {
			continue
		}
		if !c.used(vdi) {
			return list, vdi
		}
		b := c.head(vdi)
		if b == nil || c.deleted[vdi] && (c.cfg.Old || binary.LittleEndian.Uint64(b[atTaken:]) == 0) {
			continue
		}
		if field(b[:256]) == name { // servers from 1.0 on find snapshots that were deleted
			list = append(list, vdi)
		}
	}
}

// find looks a VDI up.
func (c *Cluster) find(name string, number uint32, tag string) (vdi uint32, result uint32) {
	le := binary.LittleEndian
	list, _ := c.run(name)
	result = noVDI
	for _, vdi := range list {
		b := c.head(vdi)
		snapshot := le.Uint64(b[atTaken:]) != 0
		switch {
		case number == 0 && tag == "":
			if !snapshot {
				return vdi, success
			}
		case !snapshot:
			result = noTag
		case number != 0 && le.Uint32(b[atNumber:]) == number, number == 0 && field(b[atTag:atTag+256]) == tag:
			return vdi, success
		}
	}
	return 0, result
}

// do does a request.
func (c *Cluster) do(r *Request, rest *[28]byte) (result uint32, data []byte) {
	if r.Version > 2 && (r.Op < 0x80 || r.Version != 0x0a) {
		return badVersion, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	le := binary.LittleEndian
	switch r.Op {
	case 0x02:
		return c.read(r, rest)
	case 0x01, 0x03:
		return c.write(r), nil
	case 0x05:
		return c.discard(r), nil
	case 0x11:
		vdi, result := c.create(r)
		le.PutUint32(rest[4:], vdi)
		return result, nil
	case 0x12, 0x14:
		if len(r.Data) != 512 {
			return badParams, nil
		}
		vdi, result := c.find(field(r.Data[:256]), r.Snapshot, field(r.Data[256:]))
		if result == success && r.Op == 0x12 && c.cfg.Locks {
			if c.locked[vdi] {
				return isLocked, nil
			}
			c.locked[vdi] = true
		}
		le.PutUint32(rest[4:], vdi)
		return result, nil
	case 0x13:
		if c.cfg.Locks && !c.locked[r.Base] {
			return notLocked, nil
		}
		delete(c.locked, r.Base)
		return success, nil
	case 0x15:
		return success, append([]byte(nil), c.inUse[:min(int(r.Length), len(c.inUse))]...)
	case 0xc9:
		if c.cfg.Old {
			return badParams, nil
		}
		gone := make([]byte, len(c.inUse))
		for vdi := range c.deleted {
			gone[vdi/8] |= 1 << (vdi % 8)
		}
		return success, gone
	case 0x17:
		return c.remove(r), nil
	case 0x18:
		if !c.cfg.Old {
			rest[0], rest[1], rest[2] = 1, 0, c.cfg.Shift
			return success, nil
		}
	}
	return badParams, nil
}

func (c *Cluster) read(r *Request, rest *[28]byte) (uint32, []byte) {
	o := c.objects[r.Object]
	if o == nil {
		return noObject, nil
	}
	p := make([]byte, min(r.Length, maxData))
	o.read(p, int64(r.Offset))
	if c.cfg.Trim && r.Version >= 2 {
		const sector = 512
		for len(p) >= sector && zero(p[len(p)-sector:]) {
			p = p[:len(p)-sector]
		}
		at := uint64(r.Offset)
		for len(p) >= sector && zero(p[:sector]) {
			p, at = p[sector:], at+sector
		}
		binary.LittleEndian.PutUint64(rest[4:], at)
	}
	return success, p
}

func zero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}

// isSnapshot says whether objects of a VDI may not be changed.
func (c *Cluster) isSnapshot(vdi uint32) bool {
	b := c.head(vdi)
	return b == nil || binary.LittleEndian.Uint64(b[atTaken:]) != 0
}

func (c *Cluster) write(r *Request) uint32 {
	data := r.Object>>60 == 0
	if data && c.isSnapshot(uint32(r.Object>>32)) {
		return readOnly
	}
	o := c.objects[r.Object]
	switch {
	case r.Op == 0x03 && o == nil:
		return noObject
	case r.Op == 0x01 && r.Flags&2 != 0:
		from := c.objects[r.CopyOf]
		if from == nil {
			return noObject
		}
		o = from.clone()
	case r.Op == 0x01:
		o = newObject()
	}
	if int64(r.Offset)+int64(len(r.Data)) > c.most(r.Object) {
		return badParams
	}
	o.write(r.Data, int64(r.Offset))
	c.objects[r.Object] = o
	return success
}

// most is the size of an object.
func (c *Cluster) most(object uint64) int64 {
	if object>>63 != 0 {
		return atTable + 12*entries
	}
	return 1 << c.head(uint32(object >> 32))[atShift]
}

func (c *Cluster) discard(r *Request) uint32 {
	vdi, idx := uint32(r.Object>>32), uint32(r.Object)
	o := c.objects[inodeOf(vdi)]
	switch {
	case c.cfg.Old:
		return badParams
	case o == nil || idx >= entries:
		return noObject
	}
	o.write(make([]byte, 4), atTable+4*int64(idx))
	delete(c.objects, r.Object)
	return success
}

// create makes a VDI: a new one, a clone, or one that goes on where the current one becomes
// a snapshot.
func (c *Cluster) create(r *Request) (vdi, result uint32) {
	if len(r.Data) != 256 || r.Size > uint64(entries)<<max(r.Shift, c.cfg.Shift) {
		return 0, badParams
	}
	name := field(r.Data)
	current, result := c.find(name, 0, "")
	switch {
	case r.Snapshot != 0 && result != success:
		return 0, result
	case r.Snapshot == 0 && result == success:
		return 0, exists
	}
	le := binary.LittleEndian
	c.clock += 1 << 32
	list, vdi := c.run(name)
	number := uint32(1)
	for _, other := range list {
		number = max(number, le.Uint32(c.head(other)[atNumber:])+1)
	}
	o := newObject()
	if r.Base != 0 {
		base := c.objects[inodeOf(r.Base)]
		if base == nil {
			return 0, noBase
		}
		o = base.clone()
	}
	if r.Snapshot != 0 {
		taken := make([]byte, 8)
		le.PutUint64(taken, c.clock)
		c.objects[inodeOf(current)].write(taken, atTaken)
	}
	b := make([]byte, atTable)
	copy(b, name)
	le.PutUint64(b[atCreated:], c.clock)
	le.PutUint64(b[atSize:], r.Size)
	b[atPolicy], b[atStore], b[atCopies], b[atShift] = r.Policy, r.StorePolicy, max(r.Copies, 1), r.Shift
	if r.Shift == 0 {
		b[atShift] = c.cfg.Shift
	}
	le.PutUint32(b[atNumber:], number)
	le.PutUint32(b[atVDI:], vdi)
	le.PutUint32(b[atParent:], r.Base)
	o.write(b, 0)
	c.objects[inodeOf(vdi)] = o
	c.inUse[vdi/8] |= 1 << (vdi % 8)
	return vdi, success
}

// remove deletes a VDI. Its number stays in use.
func (c *Cluster) remove(r *Request) uint32 {
	if len(r.Data) != 512 && len(r.Data) != 256 {
		return badParams
	}
	tag := ""
	if len(r.Data) == 512 {
		tag = field(r.Data[256:])
	}
	vdi, result := c.find(field(r.Data[:256]), r.Snapshot, tag)
	if result == success {
		c.deleted[vdi] = true
		if c.cfg.Old {
			c.objects[inodeOf(vdi)].write(make([]byte, 256), 0)
		}
	}
	return result
}
