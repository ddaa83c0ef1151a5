package clustertable

import (
	"cmp"
	"context"
	"iter"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

// maxMerged bounds a merged write, in bytes.
const maxMerged = 4 << 20

type piece struct {
	off  int64
	data []byte
}

// Batch is what is to be written to a file: copies, in pieces. The zero value is
// empty. It is used by one goroutine.
type Batch struct {
	// Begin is called before the first byte is written, unless it is nil or the
	// batch is empty.
	Begin func()

	pieces []piece
	done   func(err error)
}

// Add appends a copy of data at off. Neighbours that are added one behind the other
// are written at once.
func (b *Batch) Add(off int64, data []byte) {
	if n := len(b.pieces); n > 0 {
		p := &b.pieces[n-1]
		if p.off+int64(len(p.data)) == off && len(p.data)+len(data) <= maxMerged {
			p.data = append(p.data, data...)
			return
		}
	}
	b.pieces = append(b.pieces, piece{off, slices.Clone(data)})
}

// Empty says whether there is nothing to write.
func (b *Batch) Empty() bool { return len(b.pieces) == 0 }

// All yields the pieces in the order in which they were added: offsets in the file,
// and what is to be written there. For formats that write them to a log first.
func (b *Batch) All() iter.Seq2[int64, []byte] {
	return func(yield func(int64, []byte) bool) {
		for _, p := range b.pieces {
			if !yield(p.off, p.data) {
				return
			}
		}
	}
}

// Write writes the batch. After an error, any part of it may be in the file.
func (b *Batch) Write(ctx context.Context, f driver.Storage) error {
	if b.Begin != nil && !b.Empty() {
		b.Begin()
	}
	for off, data := range b.All() {
		if _, err := f.WriteAt(ctx, data, off); err != nil {
			return err
		}
	}
	return nil
}

// Done ends a batch that Take returned: with nil once it was written, else its
// contents are dirty again. The lock of what it was taken from is held exclusively.
// It is called once.
func (b *Batch) Done(err error) {
	if b.done != nil {
		b.done(err)
		b.done = nil
	}
}

// WriteInOrder writes batches one after the other, with a flush of the file
// between any two that are not empty: what is written first is durable before the
// next is begun. Nothing is flushed before the first and behind the last.
func WriteInOrder(ctx context.Context, f driver.Storage, batches ...*Batch) error {
	wrote := false
	for _, b := range batches {
		if b.Empty() {
			continue
		}
		if wrote {
			if err := f.Flush(ctx); err != nil {
				return err
			}
		}
		if err := b.Write(ctx, f); err != nil {
			return err
		}
		wrote = true
	}
	return nil
}

// Take returns a copy of the dirty slices, in the order of the file, and marks
// them clean. They stay in memory until Done. The lock is held exclusively; one
// batch of a cache at a time is under way.
func (k *Cache) Take() *Batch {
	b := &Batch{}
	if k.dirty.Load() == 0 {
		return b
	}
	var taken []*Slice
	for _, s := range k.slices {
		if s.dirty {
			taken = append(taken, s)
		}
	}
	slices.SortFunc(taken, func(a, b *Slice) int { return cmp.Compare(a.Off, b.Off) })
	for _, s := range taken {
		b.Add(s.Off, s.Data)
		s.dirty, s.writing = false, true
	}
	k.dirty.Store(0)
	b.done = func(err error) {
		for _, s := range taken {
			s.writing = false
			if err != nil && k.slices[s.Off] == s {
				k.MarkDirty(s)
			}
		}
	}
	return b
}
