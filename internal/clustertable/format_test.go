package clustertable

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// The tests here are of all parts together: a format of two levels, made as the
// package comment tells, under concurrent writes, failures and crashes.

const (
	unitSize     = 1024 // bytes of a unit, and of a second-level table
	unitsInTable = unitSize / 8
	rootLength   = 16
)

// tree is an image: a root table at offset unitSize, tables of 64-bit offsets, and
// units, all in units of the file that are never given up.
type tree struct {
	file   driver.Storage
	lock   sync.RWMutex
	root   Root
	cache  *Cache
	pend   *Changes
	tables sync.Mutex // held while a table is made
	write  sync.Mutex // one write-back at a time
	endMu  sync.Mutex
	end    int64 // of the file
}

func openTree(ctx context.Context, f driver.Storage) (*tree, error) {
	p := make([]byte, rootLength*8)
	if _, err := f.ReadAt(ctx, p, unitSize); err != nil && err != io.EOF {
		return nil, err
	}
	entries := make([]uint64, rootLength)
	for i := range entries {
		entries[i] = binary.LittleEndian.Uint64(p[i*8:])
	}
	tr := &tree{file: f, root: NewRoot(entries, unitSize, binary.LittleEndian), end: max(2*unitSize, f.Size())}
	tr.cache = NewCache(Config{SliceSize: 512, Budget: 4 * 512, Lock: &tr.lock, WriteLock: &tr.write, Writable: true})
	tr.pend = NewChanges(&tr.lock)
	return tr, nil
}

func (tr *tree) room() int64 {
	tr.endMu.Lock()
	defer tr.endMu.Unlock()
	tr.end += unitSize
	return tr.end - unitSize
}

// at returns where the slice with the entry of unit u lies, and the index there.
func (tr *tree) at(u int64) (off int64, i int64) {
	table := int64(tr.root.Entries[u/unitsInTable])
	if table == 0 {
		return 0, 0
	}
	in := u % unitsInTable * 8
	return table + in/512*512, in % 512
}

// lookup returns where unit u lies, 0 if nowhere.
func (tr *tree) lookup(ctx context.Context, u int64) (host int64, err error) {
	var i int64
	err = tr.cache.View(ctx, tr.file, func() (off int64) { off, i = tr.at(u); return off }, func(s *Slice) {
		if s != nil {
			host = int64(binary.LittleEndian.Uint64(s.Data[i:]))
		}
	})
	return host, err
}

func (tr *tree) read(ctx context.Context, u int64) ([]byte, error) {
	p := make([]byte, unitSize)
	host, err := tr.lookup(ctx, u)
	if err != nil || host == 0 {
		return p, err
	}
	_, err = tr.file.ReadAt(ctx, p, host)
	return p, err
}

// makeTable makes the table that unit u needs.
func (tr *tree) makeTable(ctx context.Context, u int64) error {
	tr.tables.Lock()
	defer tr.tables.Unlock()
	tr.lock.RLock()
	off, _ := tr.at(u)
	tr.lock.RUnlock()
	if off != 0 {
		return nil
	}
	host := tr.room()
	if err := WriteZeroes(ctx, tr.file, host, unitSize); err != nil {
		return err
	}
	tr.lock.Lock()
	defer tr.lock.Unlock()
	for o := int64(0); o < unitSize; o += tr.cache.SliceSize() {
		tr.cache.Put(host+o, make([]byte, tr.cache.SliceSize()))
	}
	tr.root.Set(u/unitsInTable, uint64(host))
	return nil
}

func (tr *tree) writeUnit(ctx context.Context, u int64, data []byte) error {
	if err := tr.makeTable(ctx, u); err != nil {
		return err
	}
	c, err := tr.pend.Reserve(ctx, u, u+1)
	if err != nil {
		return err
	}
	defer tr.pend.Remove(c)
	// Always to a new place, so that a crash shows the old contents or the new.
	host := tr.room()
	if _, err := tr.file.WriteAt(ctx, data, host); err != nil {
		return err
	}
	var i int64
	return tr.cache.Edit(ctx, tr.file, func() (off int64) { off, i = tr.at(u); return off }, func(s *Slice) bool {
		binary.LittleEndian.PutUint64(s.Data[i:], uint64(host))
		return true
	})
}

func (tr *tree) flush(ctx context.Context) (err error) {
	tr.write.Lock()
	defer tr.write.Unlock()
	tr.lock.Lock()
	low, top := tr.cache.Take(), tr.root.Take()
	tr.lock.Unlock()
	defer func() {
		tr.lock.Lock()
		low.Done(err)
		top.Done(err)
		tr.lock.Unlock()
	}()
	if err = tr.file.Flush(ctx); err != nil {
		return err
	}
	if err = WriteInOrder(ctx, tr.file, low, top); err != nil {
		return err
	}
	return tr.file.Flush(ctx)
}

// stamp is the contents of unit u in version v: recognisable in each sector.
func stamp(u, v int64) []byte {
	return bytes.Repeat([]byte(fmt.Sprintf("unit%12d%16d", u, v)), unitSize/32)
}

// version returns which version of unit u p is, 0 for none, -1 if it is nothing
// that was ever written.
func version(u int64, p []byte) (v int64) {
	if bytes.Equal(p, make([]byte, len(p))) {
		return 0
	}
	if _, err := fmt.Sscan(string(p[16:32]), &v); err != nil || !bytes.Equal(p, stamp(u, v)) {
		return -1
	}
	return v
}

const units = rootLength * unitsInTable

// TestCrash: whatever moment the machine stops at, each unit has contents that
// were written to it whole, and none older than those that were flushed.
func TestCrash(t *testing.T) {
	ctx := context.Background()
	r := rand.New(rand.NewPCG(1, 2))
	disk := mem.NewDisk(0)
	rec := testkit.NewRecorder(disk)
	tr, err := openTree(ctx, rec)
	if err != nil {
		t.Fatal(err)
	}
	now := map[int64]int64{} // versions
	type flushed struct {
		events   int
		versions map[int64]int64
	}
	var points []flushed
	for v := int64(1); v <= 400; v++ {
		u := r.Int64N(units)
		if v%3 == 0 {
			u %= 5
		}
		if err := tr.writeUnit(ctx, u, stamp(u, v)); err != nil {
			t.Fatal(err)
		}
		now[u] = v
		if r.IntN(12) == 0 {
			if err := tr.flush(ctx); err != nil {
				t.Fatal(err)
			}
			f := flushed{rec.Len(), map[int64]int64{}}
			for u, v := range now {
				f.versions[u] = v
			}
			points = append(points, f)
		}
	}
	events := rec.Events()
	step := max(1, len(events)/150)
	for n := 0; n <= len(events); n += step {
		after := mem.NewDisk(0)
		if err := testkit.Replay(ctx, after, testkit.Crash(r, events, n)); err != nil {
			t.Fatal(err)
		}
		least := map[int64]int64{}
		for _, p := range points {
			if p.events <= n {
				least = p.versions
			}
		}
		tr, err := openTree(ctx, after)
		if err != nil {
			t.Fatal(err)
		}
		for u := range int64(units) {
			p, err := tr.read(ctx, u)
			if err != nil {
				t.Fatalf("after %d changes: unit %d: %v", n, u, err)
			}
			if v := version(u, p); v < least[u] {
				t.Fatalf("after %d changes: unit %d has version %d, %d was flushed", n, u, v, least[u])
			}
		}
	}
}

// TestFailures lets calls fail now and then, while many write: what was written is
// there at the end, also for somebody who opens the file.
func TestFailures(t *testing.T) {
	ctx := context.Background()
	failure := errors.New("no")
	disk := mem.NewDisk(0)
	tr, err := openTree(ctx, disk)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	r := rand.New(rand.NewPCG(3, 4))
	disk.SetHook(func(mem.Op, int64, int64) error {
		mu.Lock()
		defer mu.Unlock()
		if r.IntN(10) == 0 {
			return failure
		}
		return nil
	})
	const writers = 6
	written := make([]map[int64]int64, writers)
	var wg sync.WaitGroup
	for w := range writers {
		written[w] = map[int64]int64{}
		wg.Go(func() {
			r := rand.New(rand.NewPCG(5, uint64(w)))
			for v := int64(1); v <= 300; v++ {
				u := r.Int64N(units/writers)*writers + int64(w) // units of different writers share slices
				switch err := tr.writeUnit(ctx, u, stamp(u, v)); {
				case err == nil:
					written[w][u] = v
				case !errors.Is(err, failure):
					t.Error(err)
				}
				if v%20 == 0 {
					if err := tr.flush(ctx); err != nil && !errors.Is(err, failure) {
						t.Error(err)
					}
				}
			}
		})
	}
	wg.Wait()
	disk.SetHook(nil)
	if err := tr.flush(ctx); err != nil {
		t.Fatal(err)
	}
	if tr.cache.Dirty() != 0 || len(tr.pend.list) != 0 {
		t.Errorf("%d dirty slices and %d changes are left", tr.cache.Dirty(), len(tr.pend.list))
	}
	again, err := openTree(ctx, disk)
	if err != nil {
		t.Fatal(err)
	}
	for _, tr := range []*tree{tr, again} {
		for w := range written {
			for u, v := range written[w] {
				p, err := tr.read(ctx, u)
				if err != nil {
					t.Fatal(err)
				}
				if got := version(u, p); got != v {
					t.Fatalf("unit %d has version %d, want %d", u, got, v)
				}
			}
		}
	}
}
