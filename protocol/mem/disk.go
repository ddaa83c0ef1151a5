package mem

import (
	"context"
	"io"
	"math"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	// PageSize is the granularity of holes.
	PageSize = 4096
	// chunkSize is the granularity of memory.
	chunkPages = 16
	chunkSize  = chunkPages * PageSize
)

// Op is a kind of operation on a Disk.
type Op uint8

// The operations that a Hook sees.
const (
	OpRead Op = iota
	OpWrite
	OpZero
	OpDiscard
	OpResize
	OpFlush
)

// Hook is asked before an operation on a disk; an error fails the operation
// before it has any effect. It may be called from several goroutines.
type Hook func(op Op, off, n int64) error

// chunk is a piece of the disk that has at least one page of data.
type chunk struct {
	mu   sync.RWMutex
	used uint16 // pages that hold data, one bit each; the others are zero
	data [chunkSize]byte
}

// Disk is a sparse disk in memory. It is a driver.Storage of its own; nodes
// that a Driver opens share it.
type Disk struct {
	mu     sync.RWMutex
	size   int64
	chunks map[int64]*chunk
	hook   Hook
}

var (
	_ driver.Storage    = (*Disk)(nil)
	_ driver.ZeroWriter = (*Disk)(nil)
	_ driver.Discarder  = (*Disk)(nil)
	_ driver.Resizer    = (*Disk)(nil)
)

// NewDisk makes a disk of size bytes, all zero.
func NewDisk(size int64) *Disk {
	return &Disk{size: size, chunks: map[int64]*chunk{}}
}

// SetHook makes every further operation ask h first; nil removes it.
func (d *Disk) SetHook(h Hook) {
	d.mu.Lock()
	d.hook = h
	d.mu.Unlock()
}

func (d *Disk) ask(ctx context.Context, op Op, off, n int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.RLock()
	h := d.hook
	d.mu.RUnlock()
	if h == nil {
		return nil
	}
	return h(op, off, n)
}

// Clone returns an independent copy, without the hook.
func (d *Disk) Clone() *Disk {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := NewDisk(d.size)
	for i, ch := range d.chunks {
		n := &chunk{}
		ch.mu.RLock()
		n.used, n.data = ch.used, ch.data
		ch.mu.RUnlock()
		c.chunks[i] = n
	}
	return c
}

// Size implements driver.Node.
func (d *Disk) Size() int64 {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.size
}

// Limits implements driver.Node.
func (d *Disk) Limits() driver.Limits { return driver.Limits{} }

// Traits implements driver.Node.
func (d *Disk) Traits() driver.Traits { return driver.Traits{ZeroInit: true, ZeroOnGrow: true} }

// State implements driver.Stater: memory is neither dirty nor corrupt.
func (d *Disk) State(context.Context) (*driver.State, error) { return &driver.State{}, nil }

// Traits implements driver.Node.
func (d *Disk) DiskUsage(context.Context) (int64, error) {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return int64(len(d.chunks)) * chunkSize, nil
}

// Flush implements driver.Node.
func (d *Disk) Flush(ctx context.Context) error { return d.ask(ctx, OpFlush, 0, 0) }

// Close implements driver.Node. The disk stays usable.
func (d *Disk) Close(context.Context) error { return nil }

// ReadAt implements driver.Storage.
func (d *Disk) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "negative offset")
	}
	if err := d.ask(ctx, OpRead, off, int64(len(p))); err != nil {
		return 0, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off >= d.size {
		if len(p) == 0 {
			return 0, nil
		}
		return 0, io.EOF
	}
	var err error
	if int64(len(p)) > d.size-off {
		p, err = p[:d.size-off], io.EOF
	}
	for done := 0; done < len(p); {
		pos := off + int64(done)
		in := int(pos % chunkSize)
		n := min(chunkSize-in, len(p)-done)
		if ch := d.chunks[pos/chunkSize]; ch != nil {
			ch.mu.RLock()
			copy(p[done:done+n], ch.data[in:])
			ch.mu.RUnlock()
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p), err
}

// pages returns the bits of the pages that [in, in+n) of a chunk touches.
func pages(in, n int) uint16 {
	first, last := in/PageSize, (in+n-1)/PageSize
	return uint16(1<<(last+1)-1) &^ uint16(1<<first-1)
}

// WriteAt implements driver.Storage.
func (d *Disk) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off > math.MaxInt64-int64(len(p)) {
		return 0, driver.Errorf(driver.ErrInvalid, "cannot write at offset %d", off)
	}
	if err := d.ask(ctx, OpWrite, off, int64(len(p))); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	for done := 0; done < len(p); {
		d.prepare(off+int64(done), int64(len(p)-done))
		done += d.fill(p[done:], off+int64(done))
	}
	return len(p), nil
}

// fill copies p to off and returns how much. It stops at a chunk that is gone
// since prepare: its other pages were discarded meanwhile.
func (d *Disk) fill(p []byte, off int64) int {
	d.mu.RLock()
	defer d.mu.RUnlock()
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		in := int(pos % chunkSize)
		n := min(chunkSize-in, len(p)-done)
		ch := d.chunks[pos/chunkSize]
		if ch == nil {
			break
		}
		ch.mu.Lock()
		copy(ch.data[in:], p[done:done+n])
		ch.used |= pages(in, n)
		ch.mu.Unlock()
		done += n
	}
	return done
}

// prepare makes sure that there are chunks for n bytes at off and that the disk
// reaches so far.
func (d *Disk) prepare(off, n int64) {
	first, last := off/chunkSize, (off+n-1)/chunkSize
	d.mu.RLock()
	ready := d.size >= off+n
	for i := first; ready && i <= last; i++ {
		ready = d.chunks[i] != nil
	}
	d.mu.RUnlock()
	if ready {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.size = max(d.size, off+n)
	for i := first; i <= last; i++ {
		if d.chunks[i] == nil {
			d.chunks[i] = &chunk{}
		}
	}
}

// Map implements driver.Storage.
func (d *Disk) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	if err := ctx.Err(); err != nil {
		return driver.Extent{}, err
	}
	d.mu.RLock()
	defer d.mu.RUnlock()
	if off >= d.size {
		return driver.Extent{}, nil
	}
	end := off + min(n, d.size-off)
	kind, pos := d.kindAt(off, end)
	for pos < end {
		k, next := d.kindAt(pos, end)
		if k != kind {
			break
		}
		pos = next
	}
	return driver.Extent{Length: min(pos, end) - off, Kind: kind, HostOffset: off, HasOffset: true}, nil
}

// kindAt tells what the page (or the missing chunk) at pos is and where the
// next one begins. Without any chunk at all the answer reaches to end.
func (d *Disk) kindAt(pos, end int64) (driver.ExtentKind, int64) {
	if len(d.chunks) == 0 {
		return driver.ExtentZero, end
	}
	ch := d.chunks[pos/chunkSize]
	if ch == nil {
		return driver.ExtentZero, (pos/chunkSize + 1) * chunkSize
	}
	ch.mu.RLock()
	defer ch.mu.RUnlock()
	next := (pos/PageSize + 1) * PageSize
	if ch.used&(1<<(pos%chunkSize/PageSize)) == 0 {
		return driver.ExtentZero, next
	}
	return driver.ExtentData, next
}

// WriteZeroes implements driver.ZeroWriter.
func (d *Disk) WriteZeroes(ctx context.Context, off, n int64, _ driver.ZeroFlags) error {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return driver.Errorf(driver.ErrInvalid, "cannot write zeroes at offset %d", off)
	}
	if err := d.ask(ctx, OpZero, off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.punch(off, off+n)
	d.size = max(d.size, off+n)
	return nil
}

// Discard implements driver.Discarder. Discarded ranges read as zeroes.
func (d *Disk) Discard(ctx context.Context, off, n int64) error {
	if off < 0 || n < 0 || off > math.MaxInt64-n {
		return driver.Errorf(driver.ErrInvalid, "cannot discard at offset %d", off)
	}
	if err := d.ask(ctx, OpDiscard, off, n); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.punch(off, min(off+n, d.size))
	return nil
}

// punch makes [off, end) zero and its whole pages holes. Called with d.mu.
func (d *Disk) punch(off, end int64) {
	if (end-off)/chunkSize > int64(len(d.chunks)) {
		for i, ch := range d.chunks {
			d.punchChunk(i, ch, off, end)
		}
		return
	}
	for i := off / chunkSize; i*chunkSize < end; i++ {
		if ch := d.chunks[i]; ch != nil {
			d.punchChunk(i, ch, off, end)
		}
	}
}

func (d *Disk) punchChunk(i int64, ch *chunk, off, end int64) {
	from, to := max(off-i*chunkSize, 0), min(end-i*chunkSize, chunkSize)
	if from >= to {
		return
	}
	if from == 0 && to == chunkSize {
		delete(d.chunks, i)
		return
	}
	clear(ch.data[from:to])
	first, last := (from+PageSize-1)/PageSize, to/PageSize
	if first < last {
		ch.used &^= uint16(1<<last-1) &^ uint16(1<<first-1)
	}
	if ch.used == 0 {
		delete(d.chunks, i)
	}
}

// Resize implements driver.Resizer. Preallocation has no meaning here.
func (d *Disk) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	if size < 0 {
		return driver.Errorf(driver.ErrInvalid, "negative size")
	}
	if opt.Prealloc != "" && opt.Prealloc != driver.PreallocOff {
		return driver.Errorf(driver.ErrUnsupported, "unsupported preallocation mode '%s'", opt.Prealloc)
	}
	if err := d.ask(ctx, OpResize, size, 0); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if size < d.size {
		d.punch(size, (d.size/chunkSize+1)*chunkSize)
	}
	d.size = size
	return nil
}
