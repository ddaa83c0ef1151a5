package sheepdog

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

const (
	// piece is how many bytes one request moves at most.
	piece = 1 << 20
	// depth is how many requests of one read or write are under way together.
	depth = 16
	// farewell bounds the time that releasing a lock takes, lateFarewell that after the end of an
	// operation that was given up.
	farewell     = 2 * time.Second
	lateFarewell = 100 * time.Millisecond
	// settling is how long what there is no way back from goes on after it was given up.
	settling = 300 * time.Millisecond
	// maxMoves is how often a write finds that the VDI has become a snapshot.
	maxMoves = 8
)

// errGone: the VDI is not there any more.
var errGone = errors.New("the VDI is not there any more")

// Open says what to open.
type Open struct {
	Name     string
	Snapshot uint32 // a snapshot by its number; 0: see Tag
	Tag      string // a snapshot by its tag; "": the current VDI
	// Lock takes the lock of the current VDI, which others then do not get.
	Lock bool
}

// VDI is an open VDI. It is safe for use by several goroutines. A snapshot that is written
// to becomes the current VDI, which is replaced: see Apply.
type VDI struct {
	c    *Client
	o    Open
	life context.Context
	end  context.CancelFunc
	// snapshots is held by what replaces the inode; an element is in it then.
	snapshots chan struct{}
	saver     sync.WaitGroup

	mu     sync.Mutex
	ino    *inode // never changed, but replaced
	table  []uint32
	making map[uint32]chan struct{} // objects that are being made or discarded
	dirty  map[uint32]bool          // entries of the table that the server does not have
	next   *batch                   // of entries to save; nil: none waits
	saving bool
	locked map[uint32]bool // VDIs whose locks are held
}

// Open opens a VDI. The caller closes it, and then the client.
func (c *Client) Open(ctx context.Context, o Open) (*VDI, error) {
	v := &VDI{c: c, o: o, snapshots: make(chan struct{}, 1), making: map[uint32]chan struct{}{}, dirty: map[uint32]bool{}, locked: map[uint32]bool{}}
	vdi, err := v.acquire(ctx, o.Snapshot, o.Tag)
	if err != nil {
		return nil, err
	}
	ino, table, err := v.load(ctx, vdi)
	if err != nil {
		v.release(ctx)
		return nil, err
	}
	v.ino, v.table = ino, table
	v.life, v.end = context.WithCancel(context.Background())
	c.mu.Lock()
	c.open[v] = true
	c.mu.Unlock()
	return v, nil
}

// acquire finds a VDI, and takes its lock if it is the current one and to be locked.
func (v *VDI) acquire(ctx context.Context, snapshot uint32, tag string) (uint32, error) {
	if !v.o.Lock || snapshot != 0 || tag != "" {
		return v.c.Find(ctx, v.o.Name, snapshot, tag)
	}
	// Whether a lock was got whose answer is lost is unknown, unless the VDI is ours already.
	r := &request{op: opLock, out: nameField(v.o.Name, ""), once: v.inode() == nil}
	err := v.c.do(ctx, r)
	if errors.Is(err, VDILocked) {
		vdi, e := v.c.Find(ctx, v.o.Name, 0, "")
		if e != nil || !r.resent && !v.holds(vdi) { // since relock
			return 0, err
		}
		r.vdi, err = vdi, nil
	}
	if err != nil {
		return 0, err
	}
	v.mu.Lock()
	v.locked[r.vdi] = true
	v.mu.Unlock()
	return r.vdi, nil
}

func (v *VDI) holds(vdi uint32) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.locked[vdi]
}

// relock takes the lock on a new connection: the server may have been started again
// meanwhile.
func (v *VDI) relock(ctx context.Context, do doer) error {
	v.mu.Lock()
	ino := v.ino
	v.mu.Unlock()
	r := &request{op: opInfo, out: nameField(v.o.Name, "")}
	if ino.snapshot {
		r.snapshot = ino.number
	} else if v.o.Lock {
		r.op = opLock
	}
	err := do(ctx, r)
	switch {
	case errors.Is(err, VDILocked): // the server has kept our lock
		return nil
	case errors.Is(err, NoVDI), errors.Is(err, NoTag):
		return message.Errorf(errGone, "VDI %s is not there any more: %w", v.o.Name, err)
	case err == nil && r.op == opLock:
		v.mu.Lock()
		v.locked[r.vdi] = true
		v.mu.Unlock()
	}
	return err
}

// load reads the inode and the table of a VDI.
func (v *VDI) load(ctx context.Context, vdi uint32) (*inode, []uint32, error) {
	ino, err := v.c.inode(ctx, vdi)
	if err != nil {
		return nil, nil, err
	}
	if ino.tree {
		return nil, nil, ErrTree
	}
	table, err := v.c.table(ctx, ino, 0, ino.objects(ino.size))
	return ino, table, err
}

// release gives back all locks. It waits for a moment at most.
func (v *VDI) release(ctx context.Context) {
	v.mu.Lock()
	locked := v.locked
	v.locked = map[uint32]bool{}
	v.mu.Unlock()
	for vdi := range locked {
		v.unlock(ctx, vdi)
	}
}

// unlock gives one lock back. What the server says to that changes nothing.
func (v *VDI) unlock(ctx context.Context, vdi uint32) {
	ctx, cancel := parting(ctx)
	defer cancel()
	v.mu.Lock()
	delete(v.locked, vdi)
	v.mu.Unlock()
	_ = v.c.do(ctx, &request{op: opRelease, base: vdi, out: nameField(v.o.Name)})
}

// parting returns a context for a last message, also of an operation that was given up.
func parting(ctx context.Context) (context.Context, context.CancelFunc) {
	if ctx.Err() == nil {
		return context.WithTimeout(ctx, farewell)
	}
	return context.WithTimeout(context.WithoutCancel(ctx), lateFarewell)
}

// settled returns a context for what there is no way back from: it ends only settling after ctx.
func settled(ctx context.Context) (context.Context, context.CancelFunc) {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(settling, cancel) })
	return own, func() {
		stop()
		cancel()
	}
}

// Close saves what is not saved and gives the lock back, whatever else fails and even if ctx
// has ended.
func (v *VDI) Close(ctx context.Context) error {
	err := v.Flush(ctx)
	v.c.mu.Lock()
	delete(v.c.open, v)
	v.c.mu.Unlock()
	v.end()
	v.saver.Wait()
	v.release(ctx)
	return err
}

// Size is the size of the disk in bytes.
func (v *VDI) Size() int64 { return v.inode().size }

// ObjectSize is the size of an object in bytes, a power of two.
func (v *VDI) ObjectSize() int64 { return v.inode().objectSize() }

// Number is the number of the VDI in its cluster, Parent that of the one it began as a copy of,
// or 0.
func (v *VDI) Number() uint32 { return v.inode().vdi }
func (v *VDI) Parent() uint32 { return v.inode().based }

// IsSnapshot says whether the VDI is a snapshot.
func (v *VDI) IsSnapshot() bool { return v.inode().snapshot }

func (v *VDI) inode() *inode {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.ino
}

// Objects is how many objects the VDI refers to: its own and shared ones.
func (v *VDI) Objects() (n int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, vdi := range v.table {
		if vdi != 0 {
			n++
		}
	}
	return n
}

// Status says whether there is an object at off, and for how many bytes it stays so, at
// most n. Without one the disk reads as zeroes. off is within the disk, n is positive.
func (v *VDI) Status(off, n int64) (data bool, length int64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	first := off >> v.ino.shift
	data = v.table[first] != 0
	end := first + 1
	for end < int64(len(v.table)) && end<<v.ino.shift < off+n && (v.table[end] != 0) == data {
		end++
	}
	return data, min(end<<v.ino.shift, v.ino.size, off+n) - off
}

// part is a part of a request that lies in one object.
type part struct {
	idx  uint32
	at   int64 // in the object
	p    []byte
	n    int64 // its length, also where p is nil
	from int64 // in the request
}

// each calls f for the parts of a range, several at a time. The first error counts.
func (v *VDI) each(p []byte, off, n, most int64, f func(part) error) error {
	size := v.ObjectSize()
	one := func(done int64) (part, int64) {
		at := off + done
		k := min(size-at%size, n-done, most)
		x := part{idx: uint32(at / size), at: at % size, n: k, from: done}
		if p != nil {
			x.p = p[done : done+k]
		}
		return x, done + k
	}
	first, done := one(0)
	if done == n {
		return f(first)
	}
	var wg sync.WaitGroup
	var once sync.Once
	var failed error
	slots := make(chan struct{}, depth)
	for next := int64(0); next < n; {
		var x part
		x, next = one(next)
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(x); err != nil {
				once.Do(func() { failed = err })
			}
		})
	}
	wg.Wait()
	return failed
}

// entry returns the inode and where an object is, when nobody makes or discards it.
// It is called with mu, which it may give up for a while.
func (v *VDI) entry(ctx context.Context, idx uint32) (*inode, uint32, error) {
	for {
		if int(idx) >= len(v.table) {
			return v.ino, 0, message.Errorf(nil, "object %d is beyond the end of the VDI", idx)
		}
		wait := v.making[idx]
		if wait == nil {
			return v.ino, v.table[idx], nil
		}
		v.mu.Unlock()
		select {
		case <-wait:
			v.mu.Lock()
		case <-ctx.Done():
			v.mu.Lock()
			return nil, 0, context.Cause(ctx)
		}
	}
}

// ReadAt fills p from off. The range is within the disk.
func (v *VDI) ReadAt(ctx context.Context, p []byte, off int64) error {
	return v.each(p, off, int64(len(p)), piece, func(x part) error {
		for attempt := 0; ; attempt++ {
			v.mu.Lock()
			ino, at := v.ino, uint32(0)
			if int(x.idx) < len(v.table) {
				at = v.table[x.idx]
			}
			v.mu.Unlock()
			if at == 0 {
				clear(x.p)
				return nil
			}
			err := v.c.read(ctx, dataObject(at, x.idx), x.at, x.p)
			if !errors.Is(err, NoObject) || attempt >= maxMoves {
				return err
			}
			v.mu.Lock()
			same := v.ino.vdi == ino.vdi && v.table[x.idx] == at
			v.mu.Unlock()
			if same { // somebody else may have changed the VDI
				if moved, e := v.reread(ctx, ino); e != nil || !moved {
					return errors.Join(e, err)
				}
			}
		}
	})
}

// reread reads the table of a VDI that is open without its lock, and says whether it changed.
func (v *VDI) reread(ctx context.Context, ino *inode) (bool, error) {
	if v.o.Lock || ino.snapshot {
		return false, nil
	}
	fresh, table, err := v.load(ctx, ino.vdi)
	if err != nil {
		return false, err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ino.vdi != ino.vdi {
		return true, nil
	}
	if fresh.size != ino.size || len(table) != len(v.table) {
		return false, message.Errorf(nil, "VDI %s has another size now", v.o.Name)
	}
	changed := false
	for i := range table {
		changed = changed || table[i] != v.table[i]
	}
	v.table = table
	return changed, nil
}
