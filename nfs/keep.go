package nfs

import (
	"context"

	"github.com/cowl-disk/cowl/internal/message"
)

const (
	// maxKept is how many bytes that are not committed are kept, commitAt how many there
	// are when they begin to be committed although nobody asks for it.
	maxKept  = 32 << 20
	commitAt = 16 << 20
	// changeCost is what a change without data counts as, in bytes.
	changeCost = 256
	// restarts is how often a server may be restarted during one Sync.
	restarts = 8
)

// change is something that was done to a file and is not committed: a write, or a
// deallocation, which has no payload.
type change struct {
	off, n   int64
	payload  []byte
	verifier verifier
}

func (k *change) cost() int64 { return int64(cap(k.payload)) + changeCost }

// keep keeps a change until it is committed. It is called with a token of order.
func (f *File) keep(k *change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.kept = append(f.kept, k)
	f.bytes += k.cost()
	if f.bytes >= commitAt && f.behind == nil {
		done := make(chan struct{})
		f.behind = done
		go func() {
			_ = f.Sync(f.ctx) // an error comes again, to those that wait for room or durability
			f.mu.Lock()
			f.behind = nil
			f.mu.Unlock()
			close(done)
		}()
	}
}

// room waits until n bytes more can be kept.
func (f *File) room(ctx context.Context, n int) error {
	f.mu.Lock()
	full, behind := f.bytes+int64(n) > maxKept, f.behind
	f.mu.Unlock()
	if !full {
		return nil
	}
	if behind != nil {
		select {
		case <-behind:
		case <-ctx.Done():
			return ctx.Err()
		}
		f.mu.Lock()
		full = f.bytes+int64(n) > maxKept
		f.mu.Unlock()
		if !full {
			return nil
		}
	}
	return f.Sync(ctx)
}

// overlay puts what is kept into p, which was read from off and has end bytes: a server that was
// restarted may have lost it. It returns how many bytes there are now.
func (f *File) overlay(p []byte, end int, off int64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.kept {
		from, to := max(k.off, off), min(k.off+k.n, off+int64(len(p)))
		if from >= to {
			continue
		}
		if k.payload == nil { // it does not change the length of the file
			to = min(to, off+int64(end))
			if from < to {
				clear(p[from-off : to-off])
			}
			continue
		}
		if at := int(from - off); at > end {
			clear(p[end:at])
		}
		copy(p[from-off:to-off], k.payload[from-k.off:to-k.off])
		end = max(end, int(to-off))
	}
	return end
}

// Sync makes durable what was written before the call.
func (f *File) Sync(ctx context.Context) error {
	if err := take(ctx, f.committing, 1); err != nil {
		return err
	}
	defer give(f.committing, 1)
	n := f.count()
	if n == 0 {
		return nil
	}
	if !f.doubtful() {
		if done, err := f.commit(ctx, n); done || err != nil {
			return err
		}
	}
	if err := take(ctx, f.order, shares); err != nil {
		return err
	}
	defer give(f.order, shares)
	return f.again(ctx)
}

func (f *File) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.kept)
}

// settle commits all that is kept. It is called with all tokens.
func (f *File) settle(ctx context.Context) error {
	n := f.count()
	if n == 0 {
		return nil
	}
	if !f.doubtful() {
		if done, err := f.commit(ctx, n); done || err != nil {
			return err
		}
	}
	return f.again(ctx)
}

func (f *File) doubtful() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doubt
}

// distrust makes the next commit write all again, since nobody knows what an earlier one
// that failed has lost.
func (f *File) distrust() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubt = true
}

// commit commits the first n changes that are kept. done says whether they are durable: the
// server may have been restarted since it did them. It is called with the token of
// committing.
func (f *File) commit(ctx context.Context, n int) (done bool, err error) {
	v, err := f.c.p.commit(ctx, f.h)
	if err != nil {
		f.distrust()
		return false, message.Errorf(nil, "committing what was written: %w", f.c.explain(err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.kept[:n] {
		if k.verifier != v {
			return false, nil
		}
	}
	for i, k := range f.kept[:n] {
		f.bytes -= k.cost()
		f.recycle(k)
		f.kept[i] = nil
	}
	f.kept = f.kept[n:]
	if len(f.kept) == 0 {
		f.kept = nil
	}
	return true, nil
}

// again does all that is kept once more, in its order, after a restart of the server. It is
// called with all tokens.
func (f *File) again(ctx context.Context) error {
	for range restarts {
		f.c.cfg.Log(1, "the server was restarted: what it may have lost is written again")
		f.mu.Lock()
		kept := f.kept
		f.known, f.doubt = false, false
		f.mu.Unlock()
		for _, k := range kept {
			if err := f.send(ctx, k); err != nil {
				f.distrust()
				return message.Errorf(nil, "writing again what the server may have lost: %w", err)
			}
		}
		if done, err := f.commit(ctx, len(kept)); done || err != nil {
			return err
		}
	}
	return message.Errorf(nil, "the server was restarted %d times while what was written was to become durable", restarts)
}
