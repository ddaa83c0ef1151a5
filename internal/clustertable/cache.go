package clustertable

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Limits on the work of one look for a slice that can be evicted.
const (
	evictBusy = 256 // dirty slices passed over
	evictUsed = 16  // slices passed over because they were used lately
)

// Config describes a Cache. All fields but SliceSize may be left zero.
type Config struct {
	SliceSize int64 // bytes, a power of two
	// End is where the tables end in the file, 0 if all slices are whole: the one
	// that reaches beyond it is cut off there, and what lies behind is not touched.
	End int64
	// Budget is how many bytes of slices are kept; at least one slice is, and dirty
	// slices are until they are written. A driver writes back when Dirty nears Slices.
	Budget int64
	// CleanInterval is how often slices that were not used since the last time are
	// forgotten. Zero: never.
	CleanInterval time.Duration
	// Lock guards the cache. Without one, Load, View and Edit cannot be called: the
	// caller holds a lock of its own across Fetch.
	Lock *sync.RWMutex
	// WriteLock is held by whoever writes batches to the file. Edit takes it where
	// a slice lies in a hole.
	WriteLock sync.Locker
	// Load fills p, a slice, from offset off of the file. Nil: what the file has,
	// with zeroes for what lies beyond its end. p and off are the caller's after the
	// return.
	Load func(ctx context.Context, p []byte, off int64) error
	// Writable has slices searched for holes of the file when they are loaded: see
	// "Room on disk" in the package documentation.
	Writable bool
}

// Slice is a part of a table in memory. Its contents, and all else of it, are
// guarded by the lock of its cache: change Data only with the lock held
// exclusively, and call MarkDirty before it is released.
type Slice struct {
	Off  int64 // in the file
	Data []byte

	used    atomic.Bool // since the eviction hand passed
	dirty   bool
	unsure  bool // a part may lie in a hole of the file
	writing bool // a write-back carries older contents to the file
}

// load is the reading of a slice that is under way.
type load struct {
	done      chan struct{}
	err       error
	abandoned bool // the context of the reader ended: others read themselves
}

// Cache holds slices of tables by their offsets in a file. It does not keep the
// file: methods that do I/O are given it, the same one each time.
type Cache struct {
	c       Config
	max     int // slices to keep; more only while they are dirty
	slices  map[int64]*Slice
	loading map[int64]*load
	dirty   atomic.Int64
	cleaned time.Time
	now     func() time.Time
}

// NewCache returns an empty cache.
func NewCache(c Config) *Cache {
	k := &Cache{c: c, max: int(max(1, c.Budget/c.SliceSize)), now: time.Now}
	k.Reset()
	return k
}

// SliceSize returns the length of a slice in bytes.
func (k *Cache) SliceSize() int64 { return k.c.SliceSize }

// sliceEnd returns where the slice at off ends.
func (k *Cache) sliceEnd(off int64) int64 {
	end := off + k.c.SliceSize
	if k.c.End > 0 {
		end = min(end, k.c.End)
	}
	return end
}

// Slices returns how many slices the budget has room for.
func (k *Cache) Slices() int { return k.max }

// Dirty returns the number of dirty slices. It may be called without the lock.
func (k *Cache) Dirty() int { return int(k.dirty.Load()) }

// SetEnd changes Config.End and forgets all slices, as Reset does.
func (k *Cache) SetEnd(end int64) {
	k.c.End = end
	k.Reset()
}

// Reset forgets all slices, written or not. The lock is held exclusively, and no
// write-back is under way.
func (k *Cache) Reset() {
	k.slices, k.loading = map[int64]*Slice{}, map[int64]*load{}
	k.dirty.Store(0)
	k.cleaned = k.now()
}

// Get returns the slice at off, or nil if it is not in memory. The lock is held.
func (k *Cache) Get(off int64) *Slice {
	s := k.slices[off]
	if s != nil && !s.used.Load() {
		s.used.Store(true)
	}
	return s
}

// Put inserts a clean slice in place of what was known at its offset: the contents
// that the caller has just written to the file. The cache owns data afterwards. The
// lock is held exclusively.
func (k *Cache) Put(off int64, data []byte) *Slice {
	s := &Slice{Off: off, Data: data}
	k.put(s)
	return s
}

func (k *Cache) put(s *Slice) {
	k.drop(s.Off)
	if len(k.slices) >= k.max {
		k.evict()
	}
	s.used.Store(true)
	k.slices[s.Off] = s
	if k.c.CleanInterval > 0 {
		if t := k.now(); t.Sub(k.cleaned) > k.c.CleanInterval {
			k.cleaned = t
			k.clean()
		}
	}
}

// MarkDirty notes that a slice of the cache was changed. The lock is held
// exclusively.
func (k *Cache) MarkDirty(s *Slice) {
	if !s.dirty {
		s.dirty = true
		k.dirty.Add(1)
	}
}

// Drop forgets the slices in [off, off+n), written or not: a table that nothing
// names any more. off is the offset of a slice. The lock is held exclusively.
func (k *Cache) Drop(off, n int64) {
	for end := off + n; off < end; off += k.c.SliceSize {
		k.drop(off)
	}
}

func (k *Cache) drop(off int64) {
	delete(k.loading, off)
	if s := k.slices[off]; s != nil {
		if s.dirty {
			k.dirty.Add(-1)
		}
		delete(k.slices, off)
	}
}

// evict makes room for one slice, if there is a clean one. The iteration order
// of maps is random, which makes this a clock algorithm with a jumping hand.
func (k *Cache) evict() {
	var victim *Slice
	looked := 0
	for _, s := range k.slices {
		if s.dirty || s.writing {
			if looked++; looked > evictBusy {
				break
			}
			continue
		}
		victim = s
		if !s.used.Load() {
			break
		}
		s.used.Store(false)
		if looked++; looked > evictUsed {
			break
		}
	}
	if victim != nil {
		delete(k.slices, victim.Off)
	}
}

// clean forgets clean slices that were not used since the last time.
func (k *Cache) clean() {
	for off, s := range k.slices {
		if !s.dirty && !s.writing && !s.used.Load() {
			delete(k.slices, off)
		}
		s.used.Store(false)
	}
}
