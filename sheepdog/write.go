package sheepdog

import (
	"context"
	"encoding/binary"
	"errors"
	"maps"
	"slices"
)

// errMoved: what was being saved belongs to an inode that was replaced meanwhile.
var errMoved = errors.New("the VDI has become a snapshot meanwhile")

// zeroes is what Zero sends.
var zeroes [piece]byte

// batch is entries of the table that are saved together.
type batch struct {
	done chan struct{}
	err  error
}

// WriteAt writes p at off. The range is within the disk. What was written can be read by
// others, and is on the disks of the servers, when it returns.
func (v *VDI) WriteAt(ctx context.Context, p []byte, off int64) error {
	if err := v.current(ctx); err != nil {
		return err
	}
	return v.each(p, off, int64(len(p)), maxWrite, func(x part) error { return v.write(ctx, x) })
}

// maxWrite is how many bytes one write moves at most: a new object is best written as a whole.
const maxWrite = 4 << 20

// write writes a part.
func (v *VDI) write(ctx context.Context, x part) error {
	for moves := 0; ; moves++ {
		ino, err := v.writeOnce(ctx, x)
		if err == nil || ctx.Err() != nil || moves == maxMoves {
			return err
		}
		if err = v.moved(ctx, ino, err); err != nil {
			return err
		}
	}
}

// moved returns nil if a change that failed is to be done again, on another inode.
func (v *VDI) moved(ctx context.Context, ino *inode, err error) error {
	switch {
	case errors.Is(err, errMoved):
		return nil
	case errors.Is(err, ReadOnly):
		return v.follow(ctx, ino, err)
	case errors.Is(err, NoObject) && v.inode().vdi != ino.vdi:
		return nil
	}
	return err
}

// writeOnce writes a part, to the inode that it returns.
func (v *VDI) writeOnce(ctx context.Context, x part) (*inode, error) {
	v.mu.Lock()
	ino, at, err := v.entry(ctx, x.idx)
	if err != nil {
		v.mu.Unlock()
		return ino, err
	}
	r := &request{op: opWrite, object: dataObject(ino.vdi, x.idx), offset: uint32(x.at), copies: ino.copies, policy: ino.policy, out: x.p}
	if at == ino.vdi {
		v.mu.Unlock()
		if err := v.c.do(ctx, r); err != nil {
			return ino, err
		}
		return ino, v.saved(ctx, ino, x.idx)
	}
	made := make(chan struct{})
	v.making[x.idx] = made
	v.mu.Unlock()
	r.op = opCreate
	if at != 0 {
		r.flags, r.copyOf = flagCopy, dataObject(at, x.idx)
	}
	err = v.c.do(ctx, r)
	v.mu.Lock()
	delete(v.making, x.idx)
	close(made)
	if err == nil && v.ino.vdi != ino.vdi {
		err = errMoved
	}
	if err == nil {
		v.table[x.idx] = ino.vdi
		v.dirty[x.idx] = true
	}
	v.mu.Unlock()
	if err != nil {
		return ino, err
	}
	return ino, v.saved(ctx, ino, x.idx)
}

// saved returns when the server has an entry of the table.
func (v *VDI) saved(ctx context.Context, ino *inode, idx uint32) error {
	v.mu.Lock()
	if v.ino.vdi != ino.vdi {
		v.mu.Unlock()
		return errMoved
	}
	if !v.dirty[idx] {
		v.mu.Unlock()
		return nil
	}
	b := v.save()
	v.mu.Unlock()
	return b.wait(ctx)
}

func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// save returns a batch that holds all entries that are dirty now. It is called with mu.
func (v *VDI) save() *batch {
	if v.next == nil {
		v.next = &batch{done: make(chan struct{})}
	}
	if !v.saving {
		v.saving = true
		v.saver.Go(v.saveAll)
	}
	return v.next
}

// saveAll saves one batch after the other, until none waits: meanwhile the next one grows.
func (v *VDI) saveAll() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for v.next != nil {
		b, ino := v.next, v.ino
		v.next = nil
		list := slices.Sorted(maps.Keys(v.dirty))
		values := make([]uint32, len(list))
		for i, idx := range list {
			values[i] = v.table[idx]
		}
		v.mu.Unlock()
		err := v.saveEntries(ino, list, values)
		if err == nil {
			// Servers take entries of what has become a snapshot, too: then they are not in
			// the table of the VDI that goes on.
			err = v.still(v.life, ino)
		}
		v.mu.Lock()
		switch {
		case v.ino.vdi != ino.vdi:
			err = errMoved
		case err == nil:
			for i, idx := range list {
				if v.table[idx] == values[i] {
					delete(v.dirty, idx)
				}
			}
		}
		b.err = err
		close(b.done)
	}
	v.saving = false
}

// saveEntries writes entries. Each run of neighbours is a request of its own: servers drop
// the counts of references of all entries that a request has, also of those that stay.
func (v *VDI) saveEntries(ino *inode, list, values []uint32) error {
	for len(list) > 0 {
		n := 1
		for n < len(list) && list[n] == list[n-1]+1 && n < piece/4 {
			n++
		}
		p := make([]byte, 4*n)
		for i, vdi := range values[:n] {
			binary.LittleEndian.PutUint32(p[4*i:], vdi)
		}
		if err := v.c.do(v.life, &request{op: opWrite, object: inodeObject(ino.vdi), offset: tableOffset(list[0]), copies: ino.copies, policy: ino.policy, out: p}); err != nil {
			return err
		}
		list, values = list[n:], values[n:]
	}
	return nil
}

// Flush saves what a write that failed has left. Everything else is on the disks of the servers
// already.
func (v *VDI) Flush(ctx context.Context) error {
	for moves := 0; ; moves++ {
		v.mu.Lock()
		if len(v.dirty) == 0 {
			v.mu.Unlock()
			return nil
		}
		ino, b := v.ino, v.save()
		v.mu.Unlock()
		err := b.wait(ctx)
		if err == nil || ctx.Err() != nil || moves == maxMoves {
			return err
		}
		if err = v.moved(ctx, ino, err); err != nil {
			return err
		}
	}
}

// ErrSlow: zeroes would have to be written.
var ErrSlow = errors.New("there is no quick way to write zeroes here")

// Zero makes a range of the disk read as zeroes. With discard, whole objects are removed.
// With quick it fails with ErrSlow, having changed a part or nothing, where zeroes would have to be written.
func (v *VDI) Zero(ctx context.Context, off, n int64, discard, quick bool) error {
	if err := v.current(ctx); err != nil {
		return err
	}
	size := v.ObjectSize()
	return v.each(nil, off, n, size, func(x part) error {
		v.mu.Lock()
		_, at, err := v.entry(ctx, x.idx)
		v.mu.Unlock()
		if err != nil || at == 0 {
			return err
		}
		if discard && v.whole(x) {
			if err := v.remove(ctx, x.idx); !errors.Is(err, errors.ErrUnsupported) {
				return err
			}
		}
		if quick {
			return ErrSlow
		}
		for done := int64(0); done < x.n; {
			k := min(x.n-done, piece)
			if err := v.write(ctx, part{idx: x.idx, at: x.at + done, p: zeroes[:k], n: k}); err != nil {
				return err
			}
			done += k
		}
		return nil
	})
}

// Discard removes the objects that lie wholly in a range, which then read as zeroes. The
// error of a cluster that cannot is errors.ErrUnsupported.
func (v *VDI) Discard(ctx context.Context, off, n int64) error {
	if err := v.current(ctx); err != nil {
		return err
	}
	return v.each(nil, off, n, v.ObjectSize(), func(x part) error {
		if !v.whole(x) {
			return nil
		}
		return v.remove(ctx, x.idx)
	})
}

// whole says whether a part is all that the disk has of an object.
func (v *VDI) whole(x part) bool {
	ino := v.inode()
	return x.at == 0 && (x.n == ino.objectSize() || int64(x.idx)<<ino.shift+x.n == ino.size)
}

// remove drops an object of the VDI, or the reference to a shared one.
func (v *VDI) remove(ctx context.Context, idx uint32) error {
	for moves := 0; ; moves++ {
		ino, err := v.removeOnce(ctx, idx)
		if err == nil || ctx.Err() != nil || moves == maxMoves {
			return err
		}
		if err = v.moved(ctx, ino, err); err != nil {
			return err
		}
	}
}

func (v *VDI) removeOnce(ctx context.Context, idx uint32) (*inode, error) {
	v.mu.Lock()
	ino, at, err := v.entry(ctx, idx)
	if err != nil || at == 0 {
		v.mu.Unlock()
		return ino, err
	}
	busy := make(chan struct{})
	v.making[idx] = busy
	v.mu.Unlock()
	// Servers check neither for objects that are removed nor for entries whether the VDI has
	// become a snapshot.
	err = v.still(ctx, ino)
	if err == nil && at == ino.vdi {
		// Not while the entry is being saved, which would bring it back.
		if err = v.saved(ctx, ino, idx); err == nil {
			err = v.c.do(ctx, &request{op: opDiscard, object: dataObject(at, idx), copies: ino.copies, policy: ino.policy})
		}
		if errors.Is(err, InvalidParams) {
			err = errors.ErrUnsupported
		}
	}
	v.mu.Lock()
	delete(v.making, idx)
	close(busy)
	if err == nil && v.ino.vdi != ino.vdi {
		err = errMoved
	}
	if err == nil {
		v.table[idx] = 0
		if at != ino.vdi {
			v.dirty[idx] = true
		}
	}
	v.mu.Unlock()
	if err != nil {
		return ino, err
	}
	return ino, v.saved(ctx, ino, idx)
}

// still returns ReadOnly if a VDI has become a snapshot, which the servers keep no client from
// changing by other requests than writes of data.
func (v *VDI) still(ctx context.Context, ino *inode) error {
	var taken [8]byte
	if err := v.c.read(ctx, inodeObject(ino.vdi), inodeTaken, taken[:]); err != nil {
		return err
	}
	if taken != [8]byte{} {
		return ReadOnly
	}
	return nil
}
