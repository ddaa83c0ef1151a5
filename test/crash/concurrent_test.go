package crash

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// A stripe is what one goroutine writes at once: it shares clusters with the
// stripes of others.
const (
	crashWorkers = 4
	stripe       = 3 * sector
)

// write is what became of one stripe: it may be there from event start on, and
// was complete at time done.
type write struct {
	off   int64
	data  []byte
	start int
	done  int64
}

// barrier is a flush that was asked for at a time and had succeeded by event end:
// every write that was complete when it was asked for is durable then.
type barrier struct {
	asked int64
	end   int
}

// TestQcow2Concurrent has several goroutines write stripes while another one
// flushes, and stops the machine at random: what was flushed must be there.
func TestQcow2Concurrent(t *testing.T) {
	for _, s := range scenarios {
		if s.resize && s.backing || s.compress {
			continue // what they add is not about concurrency
		}
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				if seed > 0 && s.once {
					break
				}
				concurrently(t, s, seed)
			}
		})
	}
}

func concurrently(t *testing.T, s scenario, seed uint64) {
	ctx := t.Context()
	memory := mem.New()
	dev := &recorded{}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, dev)
	req := block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: s.size, Options: s.options.Clone(), Gate: driver.AllowAll, Objects: keys}
	if err := block.Create(ctx, reg, req); err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.(*mem.Driver).Disk("img")
	initial := dev.disk.Clone()
	source := block.Source{Filename: "recorded:x", Format: "qcow2"}
	start := make([]byte, s.size)
	if s.backing {
		base := mem.NewDisk(s.size * 3 / 4)
		testkit.Fill(testkit.Rand(seed), start[:base.Size()])
		if _, err := base.WriteAt(ctx, start[:base.Size()], 0); err != nil {
			t.Fatal(err)
		}
		memory.(*mem.Driver).Add("base", base)
		source.Options = opts.Dict{"backing.driver": "raw", "backing.file.driver": "mem", "backing.file.filename": "base"}
	}
	if s.key {
		source.Options = opts.Dict{"encrypt.key-secret": "s"}
	}
	tight := source
	tight.Options = source.Options.Clone()
	if tight.Options == nil {
		tight.Options = opts.Dict{}
	}
	// Caches so small that tables are written back all the time.
	tight.Options["l2-cache-size"], tight.Options["l2-cache-entry-size"], tight.Options["refcount-cache-size"] = "2k", "512", "1k"
	img, err := block.Open(ctx, reg, tight, block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll, Objects: keys})
	if err != nil {
		t.Fatal(err)
	}
	rec := dev.rec
	writes, barriers := load(t, img, rec, seed)
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	events := rec.Events()
	barriers = append(barriers, barrier{math.MaxInt64, len(events)})
	r := testkit.Rand(seed + 100)
	for i := range 60 {
		n := r.IntN(len(events) + 1)
		if i == 0 {
			n = len(events)
		}
		left := initial.Clone()
		if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
			t.Fatal(err)
		}
		if err := judgeStripes(ctx, memory.(*mem.Driver), source, left, start, writes, barriers, n); err != nil {
			t.Fatalf("seed %d, crash after event %d of %d: %v", seed, n, len(events), err)
		}
		if i < 2 && !s.backing {
			checkWithOriginal(t, left, s.key)
		}
	}
}

// load writes from several goroutines and flushes from another one.
func load(t *testing.T, img *block.Image, rec *testkit.Recorder, seed uint64) (writes []write, barriers []barrier) {
	ctx := t.Context()
	var clock atomic.Int64
	var mu sync.Mutex
	var workers, flusher sync.WaitGroup
	stop := make(chan struct{})
	for w := range int64(crashWorkers) {
		workers.Go(func() {
			r := testkit.Rand(seed*10 + uint64(w))
			for range 60 {
				off := (r.Int64N(img.Size()/stripe/crashWorkers)*crashWorkers + w) * stripe
				x := write{off: off, data: make([]byte, stripe), start: rec.Len()}
				var err error
				switch r.IntN(6) {
				case 0:
					err = img.WriteZeroes(ctx, off, stripe, driver.ZeroMayUnmap)
				default:
					testkit.Fill(r, x.data)
					_, err = img.WriteAt(ctx, x.data, off)
				}
				if err != nil {
					t.Errorf("at %d: %v", off, err)
					return
				}
				x.done = clock.Add(1)
				mu.Lock()
				writes = append(writes, x)
				mu.Unlock()
			}
		})
	}
	flusher.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b := barrier{asked: clock.Add(1)}
			if err := img.Flush(ctx); err != nil {
				t.Errorf("flush: %v", err)
				return
			}
			b.end = rec.Len()
			barriers = append(barriers, b)
		}
	})
	workers.Wait()
	close(stop)
	flusher.Wait()
	return writes, barriers
}

// judgeStripes opens what a crash after n events left. Every sector is as the
// last flushed write left it, or as a later one would.
func judgeStripes(ctx context.Context, memory *mem.Driver, source block.Source, left *mem.Disk, start []byte, writes []write, barriers []barrier, n int) error {
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, &recorded{disk: left})
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Gate: driver.AllowAll, Objects: keys})
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	defer img.Close(ctx)
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, nil, nil)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if res.Corruptions != 0 || res.CheckErrors != 0 {
		return fmt.Errorf("check finds %+v", *res)
	}
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	safe := int64(-1)
	for _, b := range barriers {
		if b.end <= n {
			safe = max(safe, b.asked)
		}
	}
	// The writes to one stripe come from one goroutine, in order.
	byStripe := map[int64][]write{}
	for _, w := range writes {
		byStripe[w.off] = append(byStripe[w.off], w)
	}
	for off := int64(0); off < int64(len(got)); off += sector {
		at := off / stripe * stripe
		allowed := [][]byte{start[off : off+sector]}
		for _, w := range byStripe[at] {
			part := w.data[off-at:][:sector]
			switch {
			case w.done < safe:
				allowed = [][]byte{part}
			case w.start <= n:
				allowed = append(allowed, part)
			}
		}
		ok := false
		for _, a := range allowed {
			ok = ok || bytes.Equal(a, got[off:off+sector])
		}
		if !ok {
			return fmt.Errorf("sector at %d holds none of the %d contents that it may", off, len(allowed))
		}
	}
	return nil
}
