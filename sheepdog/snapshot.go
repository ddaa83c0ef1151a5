package sheepdog

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

// Snapshot is a snapshot of a VDI.
type Snapshot struct {
	Number uint32 // among those of the VDI
	VDI    uint32 // in the cluster
	Tag    string
	Taken  time.Time
	Clock  time.Duration // of the virtual machine
	State  int64         // of the saved virtual machine, in bytes
}

// exclusively runs f, which may replace the inode.
func (v *VDI) exclusively(ctx context.Context, f func() error) error {
	select {
	case v.snapshots <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-v.snapshots }()
	return f()
}

// current makes a snapshot the current VDI before it is written to.
func (v *VDI) current(ctx context.Context) error {
	if !v.inode().snapshot {
		return nil
	}
	return v.exclusively(ctx, func() error {
		ino := v.inode()
		if !ino.snapshot {
			return nil
		}
		return v.branch(ctx, ino)
	})
}

// follow goes on with the VDI that is the current one since ino became a snapshot: somebody
// else took one. reason is how we know.
func (v *VDI) follow(ctx context.Context, ino *inode, reason error) error {
	return v.exclusively(ctx, func() error { return v.goOn(ctx, ino, reason) })
}

// goOn is follow for one that holds snapshots.
func (v *VDI) goOn(ctx context.Context, ino *inode, reason error) error {
	if v.inode().vdi != ino.vdi {
		return nil
	}
	var own []uint32 // VDIs that this client has made entries of
	for moves := 0; ; moves++ {
		vdi, err := v.acquire(ctx, 0, "")
		if err != nil {
			return err
		}
		if vdi == ino.vdi {
			return reason
		}
		own = append(own, ino.vdi)
		if err := v.replace(ctx, vdi, ino); err != nil {
			return err
		}
		// Meanwhile this one may have become a snapshot.
		if err = v.relink(ctx, ino, own); !errors.Is(err, ReadOnly) || moves == maxMoves {
			return err
		}
		ino = v.inode()
	}
}

// latest returns the inode when it is known to be that of the current VDI. It is for one that
// holds snapshots.
func (v *VDI) latest(ctx context.Context) (*inode, error) {
	for moves := 0; ; moves++ {
		ino := v.inode()
		err := v.still(ctx, ino)
		if err == nil || !errors.Is(err, ReadOnly) || moves == maxMoves {
			return ino, err
		}
		if err := v.goOn(ctx, ino, err); err != nil {
			return nil, err
		}
	}
}

// relink gives the current VDI the entries of old, which became a snapshot, that were saved too
// late to be in its copy of the table. They name one of the VDIs own: others are in the copy,
// or somebody else has changed them since.
func (v *VDI) relink(ctx context.Context, old *inode, own []uint32) error {
	before, err := v.c.table(ctx, old, 0, old.objects(old.size))
	if err != nil {
		return err
	}
	v.mu.Lock()
	late := false
	for idx, at := range before {
		if slices.Contains(own, at) && idx < len(v.table) && v.table[idx] != at && v.table[idx] != v.ino.vdi {
			v.table[idx], v.dirty[uint32(idx)], late = at, true, true
		}
	}
	if !late {
		v.mu.Unlock()
		return nil
	}
	b := v.save()
	v.mu.Unlock()
	return b.wait(ctx)
}

// replace goes on with another VDI. old: the one whose lock is not needed any more, or nil.
func (v *VDI) replace(ctx context.Context, vdi uint32, old *inode) error {
	ino, table, err := v.load(ctx, vdi)
	if err != nil {
		return err
	}
	v.mu.Lock()
	v.ino, v.table = ino, table
	clear(v.dirty)     // of writes that will be done again
	if v.next != nil { // it was to be saved in the inode that was
		v.next.err = errMoved
		close(v.next.done)
		v.next = nil
	}
	held := old != nil && v.locked[old.vdi] && old.vdi != vdi
	v.mu.Unlock()
	if held {
		v.unlock(ctx, old.vdi)
	}
	return nil
}

// branch makes a clone of a snapshot the current VDI and removes the one that was.
func (v *VDI) branch(ctx context.Context, snapshot *inode) error {
	r := &request{op: opNew, size: uint64(snapshot.size), base: snapshot.vdi, copies: snapshot.copies, policy: snapshot.policy, shift: snapshot.shift,
		out: nameField(v.o.Name), once: true}
	var old *inode
	vdi, err := v.c.Find(ctx, v.o.Name, 0, "")
	switch {
	case err == nil:
		if old, err = v.c.inode(ctx, vdi); err != nil {
			return err
		}
		// The current VDI becomes a snapshot first, so that a crash loses nothing.
		r.snapshot = snapshotFlag
	case !errors.Is(err, NoVDI):
		return err
	}
	if err := v.c.do(ctx, r); err != nil {
		return err
	}
	// From here on there is no way back.
	ctx, cancel := settled(ctx)
	defer cancel()
	if vdi, err = v.acquire(ctx, 0, ""); err != nil {
		return err
	}
	if err := v.replace(ctx, vdi, old); err != nil {
		return err
	}
	if old == nil {
		return nil
	}
	if err := v.c.Delete(ctx, v.o.Name, old.number, ""); err != nil {
		return message.Errorf(nil, "what the VDI was before is snapshot %d now, which could not be deleted: %w", old.number, err)
	}
	return nil
}

// Snapshots lists the snapshots of the VDI, the oldest first.
func (v *VDI) Snapshots(ctx context.Context) ([]Snapshot, error) {
	return v.c.Snapshots(ctx, v.o.Name)
}

// Snapshots lists the snapshots of a VDI, the oldest first.
func (c *Client) Snapshots(ctx context.Context, name string) ([]Snapshot, error) {
	inUse, gone := make([]byte, bitmapSize), make([]byte, bitmapSize)
	if err := c.do(ctx, &request{op: opList, in: inUse}); err != nil {
		return nil, err
	}
	if err := c.deleted(ctx, gone); err != nil {
		return nil, err
	}
	for i := range inUse {
		inUse[i] &^= gone[i]
	}
	numbers := candidates(inUse, gone, name)
	found := make([]*inode, len(numbers))
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	slots := make(chan struct{}, depth)
	for i, vdi := range numbers {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			ino, err := c.inode(ctx, vdi)
			switch {
			case errors.Is(err, NoObject): // it was deleted
			case err != nil:
				once.Do(func() { failed = err })
			default:
				found[i] = ino
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return nil, failed
	}
	var list []Snapshot
	for _, ino := range found {
		if ino != nil && ino.name == name && ino.snapshot {
			list = append(list, Snapshot{ino.number, ino.vdi, ino.tag, ino.taken, time.Duration(ino.clock), ino.state})
		}
	}
	slices.SortStableFunc(list, func(a, b Snapshot) int { return cmp.Compare(a.Number, b.Number) })
	return list, nil
}

// deleted asks for the VDIs that were deleted, which servers from 1.0 on find all the same, with
// nothing in them. Others do not know the question, and do not find them.
func (c *Client) deleted(ctx context.Context, bitmap []byte) error {
	err := c.do(ctx, &request{op: opDeleted, in: bitmap})
	var refused Result
	if errors.As(err, &refused) && !refused.passing() {
		clear(bitmap)
		return nil
	}
	return err
}

// maxCandidates is for how many VDIs all are looked at. In larger clusters those count that a
// server looks at: the run that begins where the name says.
const maxCandidates = 4096

// candidates returns the numbers of the VDIs that may be snapshots of the one with a name.
func candidates(inUse, gone []byte, name string) (list []uint32) {
	n := 0
	for _, b := range inUse {
		n += bits.OnesCount8(b)
	}
	if n <= maxCandidates {
		for i, b := range inUse {
			for ; b != 0; b &= b - 1 {
				list = append(list, uint32(8*i+bits.TrailingZeros8(b)))
			}
		}
		return list
	}
	for vdi := hash(name); len(list) < maxCandidates && (inUse[vdi/8]|gone[vdi/8])>>(vdi%8)&1 != 0; vdi = (vdi + 1) % vdiCount {
		list = append(list, vdi)
	}
	return list
}

// hash is where the numbers of the VDIs of a name begin: 64-bit FNV-1a, its lower 24 bits.
func hash(name string) uint32 {
	h := uint64(0xcbf29ce484222325)
	for _, b := range []byte(name) {
		h = (h ^ uint64(b)) * 0x100000001b3
	}
	return uint32(h % vdiCount)
}

// TakeSnapshot keeps the disk as it is now, and returns the number of the snapshot. No other
// call that changes the disk is under way.
func (v *VDI) TakeSnapshot(ctx context.Context, tag string) (number uint32, err error) {
	err = v.exclusively(ctx, func() error {
		if err := v.Flush(ctx); err != nil {
			return err
		}
		if v.inode().snapshot {
			return ErrSnapshot
		}
		ino, err := v.latest(ctx)
		if err != nil {
			return err
		}
		number = ino.number
		head := &request{op: opWrite, object: inodeObject(ino.vdi), offset: inodeTag, copies: ino.copies, policy: ino.policy, out: nameField(tag)}
		if err := v.c.do(ctx, head); err != nil {
			return err
		}
		r := &request{op: opNew, size: uint64(ino.size), base: ino.vdi, copies: ino.copies, policy: ino.policy, shift: ino.shift, snapshot: snapshotFlag,
			out: nameField(v.o.Name), once: true}
		if err := v.c.do(ctx, r); err != nil {
			ctx, cancel := parting(ctx)
			defer cancel()
			head.out = nameField(ino.tag)
			_ = v.c.do(ctx, head) // a tag of what is no snapshot does no harm
			return err
		}
		ctx, cancel := settled(ctx)
		defer cancel()
		vdi, err := v.acquire(ctx, 0, "")
		if err != nil {
			return err
		}
		return v.replace(ctx, vdi, ino)
	})
	return number, err
}

// find returns a snapshot by its number, else by its tag.
func (v *VDI) find(ctx context.Context, which string) (*Snapshot, error) {
	list, err := v.Snapshots(ctx)
	if err != nil {
		return nil, err
	}
	for _, match := range []func(s Snapshot) bool{
		func(s Snapshot) bool { return strconv.FormatUint(uint64(s.Number), 10) == which },
		func(s Snapshot) bool { return s.Tag == which },
	} {
		if i := slices.IndexFunc(list, match); i >= 0 {
			return &list[i], nil
		}
	}
	return nil, NoTag
}

// Find returns the number of a VDI: of the current one if snapshot is 0 and tag empty, else
// of a snapshot.
func (c *Client) Find(ctx context.Context, name string, snapshot uint32, tag string) (uint32, error) {
	r := &request{op: opInfo, snapshot: snapshot, out: nameField(name, tag)}
	if err := c.do(ctx, r); err != nil || snapshot == 0 && tag == "" {
		return r.vdi, err
	}
	gone := make([]byte, bitmapSize)
	if err := c.deleted(ctx, gone); err != nil {
		return 0, err
	}
	if r.vdi >= vdiCount {
		return 0, protocolError("the server says that VDI %s has the number %#x", name, r.vdi)
	}
	if gone[r.vdi/8]>>(r.vdi%8)&1 == 0 {
		return r.vdi, nil
	}
	// The server has found one that was deleted. There may be another one of the name.
	list, err := c.Snapshots(ctx, name)
	if err != nil {
		return 0, err
	}
	for _, s := range list {
		if snapshot != 0 && s.Number == snapshot || snapshot == 0 && s.Tag == tag {
			return s.VDI, nil
		}
	}
	return 0, NoTag
}

// Apply makes the disk what it was when a snapshot was taken, which is named by its number or
// its tag. What it holds now is lost. No other call that changes the disk is under way.
func (v *VDI) Apply(ctx context.Context, which string) error {
	s, err := v.find(ctx, which)
	if err != nil {
		return err
	}
	return v.exclusively(ctx, func() error {
		ino, err := v.c.inode(ctx, s.VDI)
		if err != nil {
			return err
		}
		return v.branch(ctx, ino)
	})
}

// View shows a snapshot in place of the disk, from then on.
func (v *VDI) View(ctx context.Context, which string) error {
	s, err := v.find(ctx, which)
	if err != nil {
		return err
	}
	return v.exclusively(ctx, func() error { return v.replace(ctx, s.VDI, v.inode()) })
}

// DeleteSnapshot removes a snapshot by its number.
func (v *VDI) DeleteSnapshot(ctx context.Context, number uint32) error {
	return v.c.Delete(ctx, v.o.Name, number, "")
}

// Grow makes the disk larger. What is new reads as zeroes.
func (v *VDI) Grow(ctx context.Context, size int64) error {
	if err := v.current(ctx); err != nil {
		return err
	}
	return v.exclusively(ctx, func() error {
		ino, err := v.latest(ctx)
		if err != nil {
			return err
		}
		if size < ino.size || size > maxSize(ino.shift) {
			return message.Errorf(nil, "a VDI of %d bytes cannot have %d", ino.size, size)
		}
		more, err := v.c.table(ctx, ino, ino.objects(ino.size), ino.objects(size))
		if err != nil {
			return err
		}
		p := make([]byte, 8)
		binary.LittleEndian.PutUint64(p, uint64(size))
		if err := v.c.do(ctx, &request{op: opWrite, object: inodeObject(ino.vdi), offset: inodeSizeAt, copies: ino.copies, policy: ino.policy, out: p}); err != nil {
			return err
		}
		grown := *ino
		grown.size = size
		v.mu.Lock()
		v.ino, v.table = &grown, append(v.table, more...)
		v.mu.Unlock()
		return nil
	})
}
