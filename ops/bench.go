package ops

import (
	"context"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// BenchJob sends Count requests of Size bytes, Depth at a time, the first at
// Offset and each next one Step bytes after the previous one, wrapping around
// at the end of the disk. A request beyond the end fails.
type BenchJob struct {
	Image   *block.Image
	Count   int
	Depth   int
	Offset  int64
	Size    int64
	Step    int64 // 0: Size
	Write   bool
	Pattern byte
	// FlushInterval flushes after so many requests, 0: never. With Drain the
	// requests under way end before the flush, and none start until it is done.
	FlushInterval int
	Drain         bool
}

// Bench runs a BenchJob and returns how long it took.
func Bench(ctx context.Context, job BenchJob) (time.Duration, error) {
	if job.Size <= 0 || job.Count < 0 || job.Depth <= 0 || job.Offset < 0 {
		return 0, driver.Errorf(driver.ErrInvalid, "a benchmark needs requests of some size, a number and a depth")
	}
	b := &bench{BenchJob: job, next: job.Offset}
	if b.Step == 0 {
		b.Step = job.Size
	}
	b.idle = sync.NewCond(&b.mu)
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		b.mu.Lock()
		b.idle.Broadcast()
		b.mu.Unlock()
	})
	defer stop()
	for range min(job.Depth, max(job.Count, 1)) {
		g.Go(func() error { return b.worker(ctx) })
	}
	err := g.Wait()
	return time.Since(start), err
}

type bench struct {
	BenchJob
	mu       sync.Mutex
	idle     *sync.Cond
	next     int64
	sent     int
	inFlight int
	flushing bool
}

// take hands out the next request; flush says that the caller flushes first.
func (b *bench) take(ctx context.Context) (off int64, flush, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.flushing && b.Drain && ctx.Err() == nil {
		b.idle.Wait()
	}
	if b.sent >= b.Count || ctx.Err() != nil {
		return 0, false, false
	}
	off = b.next
	b.sent++
	b.next += b.Step
	if limit := b.Image.Size() - b.Size; limit <= 0 {
		b.next = 0
	} else {
		b.next %= limit
	}
	b.inFlight++
	flush = b.FlushInterval > 0 && b.sent%b.FlushInterval == 0
	if flush && b.Drain {
		b.flushing = true
	}
	return off, flush, true
}

func (b *bench) end() {
	b.mu.Lock()
	b.inFlight--
	if b.inFlight == 0 || b.flushing {
		b.idle.Broadcast()
	}
	b.mu.Unlock()
}

// flush runs a flush after the request that asked for it.
func (b *bench) flush(ctx context.Context) error {
	if !b.Drain {
		return b.Image.Flush(ctx)
	}
	b.mu.Lock()
	for b.inFlight > 0 && ctx.Err() == nil {
		b.idle.Wait()
	}
	b.mu.Unlock()
	err := b.Image.Flush(ctx)
	b.mu.Lock()
	b.flushing = false
	b.idle.Broadcast()
	b.mu.Unlock()
	return err
}

func (b *bench) worker(ctx context.Context) error {
	buf := bufpool.Get(int(b.Size))
	defer bufpool.Put(buf)
	for i := range buf {
		buf[i] = b.Pattern
	}
	for {
		off, flush, ok := b.take(ctx)
		if !ok {
			return ctx.Err()
		}
		var err error
		switch {
		case off > b.Image.Size()-b.Size:
			err = &block.IOError{Op: "access", Image: b.Image.Filename(), Offset: off, Err: driver.Errorf(driver.ErrRange, "%w", syscall.EIO)}
		case b.Write:
			_, err = b.Image.WriteAt(ctx, buf, off)
		default:
			_, err = b.Image.ReadAt(ctx, buf, off)
		}
		b.end()
		if err == nil && flush {
			err = b.flush(ctx)
		}
		if err != nil {
			return err
		}
	}
}
