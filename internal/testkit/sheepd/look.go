package sheepd

import "encoding/binary"

// VDI is what a test can see of one.
type VDI struct {
	Number         uint32
	Size           uint64
	Copies, Policy byte
	Shift          byte
	Table          map[uint32]uint32 // entries that are not 0
	Locked         bool
}

// Look returns what the cluster has under a name, as Find of a client names it; nil if there
// is nothing.
func (c *Cluster) Look(name string, snapshot uint32, tag string) *VDI {
	c.mu.Lock()
	defer c.mu.Unlock()
	vdi, result := c.find(name, snapshot, tag)
	if result != success {
		return nil
	}
	b, le := c.head(vdi), binary.LittleEndian
	v := &VDI{Number: vdi, Size: le.Uint64(b[atSize:]), Copies: b[atCopies], Policy: b[atPolicy], Shift: b[atShift], Table: map[uint32]uint32{}, Locked: c.locked[vdi]}
	n := (v.Size + 1<<v.Shift - 1) >> v.Shift
	table := make([]byte, 4*n)
	c.objects[inodeOf(vdi)].read(table, atTable)
	for i := range uint32(n) {
		if e := le.Uint32(table[4*i:]); e != 0 {
			v.Table[i] = e
		}
	}
	return v
}

// Locks is how many locks are held.
func (c *Cluster) Locks() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.locked)
}

// Take makes a snapshot behind the back of clients, as an administrator does.
func (c *Cluster) Take(name, tag string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	vdi, result := c.find(name, 0, "")
	if result != success {
		panic("sheepd: there is no VDI " + name)
	}
	field := make([]byte, 256)
	copy(field, tag)
	c.objects[inodeOf(vdi)].write(field, atTag)
	b := c.head(vdi)
	data := make([]byte, 256)
	copy(data, name)
	c.create(&Request{Size: binary.LittleEndian.Uint64(b[atSize:]), Base: vdi, Copies: b[atCopies], Policy: b[atPolicy], Shift: b[atShift], Snapshot: 1, Data: data})
}

// Write changes an object, for inodes that no server makes.
func (c *Cluster) Write(object uint64, p []byte, off int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.objects[object].write(p, off)
}
