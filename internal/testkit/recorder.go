package testkit

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

// EventKind is a kind of change that a Recorder logs.
type EventKind uint8

// The kinds of event.
const (
	EventWrite EventKind = iota
	EventZero
	EventDiscard
	EventResize
	EventFlush
)

// Event is one change of a Storage, in the order in which they were completed.
type Event struct {
	Kind   EventKind
	Offset int64
	Length int64 // of zeroes, discards; the new size of a resize
	Data   []byte
}

func (e Event) String() string {
	return fmt.Sprintf("%s %d+%d", [...]string{"write", "zero", "discard", "resize", "flush"}[e.Kind], e.Offset, max(e.Length, int64(len(e.Data))))
}

// Recorder passes everything to a Storage and logs what changes it, for
// replaying what a crash could leave. It can do what the Storage can.
type Recorder struct {
	driver.Storage
	mu     sync.Mutex
	events []Event
}

// NewRecorder records the changes of s.
func NewRecorder(s driver.Storage) *Recorder { return &Recorder{Storage: s} }

// Events returns what was recorded so far. The data is shared: do not change it.
func (r *Recorder) Events() []Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.events)
}

// Len is the number of events so far.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.events)
}

// do makes a change and logs it if it succeeds. One at a time, so that the log
// has the order of the changes.
func (r *Recorder) do(e Event, change func() error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	err := change()
	if err == nil {
		r.events = append(r.events, e)
	}
	return err
}

// WriteAt implements driver.Storage.
func (r *Recorder) WriteAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = r.do(Event{Kind: EventWrite, Offset: off, Data: slices.Clone(p)}, func() error {
		n, err = r.Storage.WriteAt(ctx, p, off)
		return err
	})
	return n, err
}

// WriteZeroes implements driver.ZeroWriter.
func (r *Recorder) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	z, ok := r.Storage.(driver.ZeroWriter)
	if !ok {
		return driver.ErrUnsupported
	}
	return r.do(Event{Kind: EventZero, Offset: off, Length: n}, func() error { return z.WriteZeroes(ctx, off, n, flags) })
}

// Discard implements driver.Discarder.
func (r *Recorder) Discard(ctx context.Context, off, n int64) error {
	d, ok := r.Storage.(driver.Discarder)
	if !ok {
		return driver.ErrUnsupported
	}
	return r.do(Event{Kind: EventDiscard, Offset: off, Length: n}, func() error { return d.Discard(ctx, off, n) })
}

// Resize implements driver.Resizer.
func (r *Recorder) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	s, ok := r.Storage.(driver.Resizer)
	if !ok {
		return driver.ErrUnsupported
	}
	return r.do(Event{Kind: EventResize, Length: size}, func() error { return s.Resize(ctx, size, opt) })
}

// Flush implements driver.Node.
func (r *Recorder) Flush(ctx context.Context) error {
	return r.do(Event{Kind: EventFlush}, func() error { return r.Storage.Flush(ctx) })
}

// Replay makes the changes of events on s.
func Replay(ctx context.Context, s driver.Storage, events []Event) error {
	for i, e := range events {
		var err error
		switch e.Kind {
		case EventWrite:
			_, err = s.WriteAt(ctx, e.Data, e.Offset)
		case EventZero:
			err = s.(driver.ZeroWriter).WriteZeroes(ctx, e.Offset, e.Length, driver.ZeroMayUnmap)
		case EventDiscard:
			err = s.(driver.Discarder).Discard(ctx, e.Offset, e.Length)
		case EventResize:
			err = s.(driver.Resizer).Resize(ctx, e.Length, driver.ResizeOptions{})
		}
		if err != nil {
			return fmt.Errorf("event %d (%v): %w", i, e, err)
		}
	}
	return nil
}

// Crash returns changes that may have reached the disk when the machine stops
// after the first n events: all that came before the last flush among them, and
// of the later ones any, with writes torn at sectors of 512 bytes. Order is kept:
// what a reordering could show, leaving out shows too.
func Crash(r *rand.Rand, events []Event, n int) []Event {
	flushed := 0
	for i, e := range events[:n] {
		if e.Kind == EventFlush {
			flushed = i + 1
		}
	}
	out := slices.Clone(events[:flushed])
	for _, e := range events[flushed:n] {
		switch r.IntN(4) {
		case 0: // lost
		case 1:
			if e.Kind == EventWrite && len(e.Data) > 512 {
				cut := min(r.IntN(len(e.Data)/512+1)*512, len(e.Data))
				if r.IntN(2) == 0 {
					e.Data = e.Data[:cut]
				} else {
					e.Data, e.Offset = e.Data[cut:], e.Offset+int64(cut)
				}
			}
			out = append(out, e)
		default:
			out = append(out, e)
		}
	}
	return out
}
