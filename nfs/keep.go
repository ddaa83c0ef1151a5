package nfs

import (
	"context"
	"slices"

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
	done     chan struct{} // closed when the server has answered
	users    int           // reads that look at the payload
	gone     bool          // it is not kept any more
}

func (k *change) cost() int64 { return int64(cap(k.payload)) + changeCost }

// begin waits for the changes under way that overlap, and puts a change among those under
// way. It is called with a token of order. It returns with mu, unless there is an error: that of an
// earlier write, or of the context.
func (f *File) begin(ctx context.Context, k *change) error {
	for {
		f.mu.Lock()
		if err := f.failed; err != nil {
			f.mu.Unlock()
			return err
		}
		before := f.overlapping(k)
		if before == nil {
			f.under = append(f.under, k)
			return nil
		}
		f.mu.Unlock()
		select {
		case <-before.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// end takes a change from those under way. It is called with mu.
func (f *File) end(k *change) {
	f.under = slices.DeleteFunc(f.under, func(o *change) bool { return o == k })
	close(k.done)
}

// behindhand keeps a write until it is committed, and begins to do it. It is called with a
// token of order, which it gives back.
func (f *File) behindhand(ctx context.Context, k *change) error {
	k.done = make(chan struct{})
	if err := f.begin(ctx, k); err != nil {
		give(f.order, 1)
		return err
	}
	defer f.mu.Unlock()
	f.kept = append(f.kept, k)
	f.bytes += k.cost()
	f.sends.Go(func() {
		defer give(f.order, 1)
		err := f.send(f.ctx, k)
		f.mu.Lock()
		defer f.mu.Unlock()
		if err == nil && f.loose {
			err = f.pass(k)
			f.forget([]*change{k})
			f.recycle(k)
		}
		if err != nil {
			f.failed, f.doubt = err, true
		}
		f.end(k)
	})
	if f.bytes >= commitAt && f.behind == nil && !f.loose {
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
	return nil
}

// overlapping returns a change under way whose range is not apart from that of k: the two
// must be done one after the other. It is called with mu.
func (f *File) overlapping(k *change) *change {
	for _, o := range f.under {
		if o.off < k.off+k.n && k.off < o.off+o.n {
			return o
		}
	}
	return nil
}

// forget keeps changes no longer. It is called with mu.
func (f *File) forget(list []*change) {
	for _, k := range list {
		k.gone = true
		f.bytes -= k.cost()
	}
	f.kept = slices.DeleteFunc(f.kept, func(k *change) bool { return k.gone })
}

// wait waits for changes to be done, and for nothing longer than ctx.
func (f *File) wait(ctx context.Context, list []*change) error {
	for _, k := range list {
		select {
		case <-k.done:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// all returns what is kept.
func (f *File) all() []*change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.kept)
}

// room waits until n bytes more can be kept.
func (f *File) room(ctx context.Context, n int) error {
	f.mu.Lock()
	full, behind, loose, much := f.bytes+int64(n) > maxKept, f.behind, f.loose, f.passed >= f.loosely
	f.mu.Unlock()
	switch {
	case loose && much:
		if err := f.tighten(ctx); err != nil {
			return err
		}
		return f.room(ctx, n)
	case !full:
		return nil
	case loose:
		return f.roomLoose(ctx, n)
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

// pin returns what is kept of a range, and what makes the file longer, before the range is
// read, so that it stays until unpin: the server may do and commit it meanwhile, too late for
// the answer.
func (f *File) pin(off, n int64) (list []*change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.kept {
		if k.off+k.n > off && (k.off < off+n || k.payload != nil) {
			k.users++
			list = append(list, k)
		}
	}
	return list
}

func (f *File) unpin(list []*change) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range list {
		k.users--
	}
}

// overlay puts what is kept, and what was before, into p, which was read from off and has end bytes: the
// server may not have done it yet, or lost it with a restart. It returns how many bytes there are now.
func (f *File) overlay(before []*change, p []byte, end int, off int64) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, list := range [][]*change{before, f.kept} {
		for _, k := range list {
			end = k.overlay(p, end, off)
		}
	}
	return end
}

func (k *change) overlay(p []byte, end int, off int64) int {
	from, to := max(k.off, off), min(k.off+k.n, off+int64(len(p)))
	if k.payload == nil { // it does not change the length of the file
		if to = min(to, off+int64(end)); from < to {
			clear(p[from-off : to-off])
		}
		return end
	}
	// What is between the end of the file and the change reads as zeroes.
	if gap := min(k.off-off, int64(len(p))); gap > int64(end) {
		clear(p[end:gap])
		end = int(gap)
	}
	if from < to {
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
	list := f.all()
	if err := f.wait(ctx, list); err != nil {
		return err
	}
	f.mu.Lock()
	loose := f.loose // as long as committing is taken
	f.mu.Unlock()
	if loose {
		return f.commitLoose(ctx)
	}
	if len(list) == 0 {
		return nil
	}
	if !f.doubtful() {
		if done, err := f.commit(ctx, list); done || err != nil {
			return err
		}
	}
	if err := take(ctx, f.order, shares); err != nil {
		return err
	}
	defer give(f.order, shares)
	return f.again(ctx)
}

// settle commits all that is kept. It is called with all tokens.
func (f *File) settle(ctx context.Context) error {
	list := f.all()
	if len(list) == 0 {
		return nil
	}
	if !f.doubtful() {
		if done, err := f.commit(ctx, list); done || err != nil {
			return err
		}
	}
	return f.again(ctx)
}

// restarted says whether what is kept was not all taken by one instance of the server: Sync writes it again.
func (f *File) restarted() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !f.loose && len(f.kept) > 0 && slices.ContainsFunc(f.kept, func(k *change) bool { return k.verifier != f.kept[0].verifier })
}

func (f *File) doubtful() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.doubt
}

// distrust makes the next commit write all again, since nobody knows what one that failed has
// lost, and fails writes until then. It returns the error.
func (f *File) distrust(ctx context.Context, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.doubt = true
	if ctx.Err() == nil {
		f.failed = err
	}
	return err
}

// commit commits changes that are done. done says whether they are durable: the server may
// have been restarted since it did them. It is called with the token of committing.
func (f *File) commit(ctx context.Context, list []*change) (done bool, err error) {
	v, err := f.c.p.commit(ctx, f.h)
	if err != nil {
		return false, f.distrust(ctx, message.Errorf(nil, "committing what was written: %w", f.c.explain(err)))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range list {
		if k.verifier != v {
			return false, nil
		}
	}
	f.forget(list)
	for _, k := range list {
		f.recycle(k)
	}
	return true, nil
}

// again does all that is kept once more, in its order, after a restart of the server. It is
// called with all tokens.
func (f *File) again(ctx context.Context) error {
	for range restarts {
		f.c.cfg.Log(1, "what the server may have lost is written again")
		kept := f.all()
		f.mu.Lock()
		f.known, f.doubt, f.failed = false, false, nil
		f.mu.Unlock()
		for _, k := range kept {
			if err := f.send(ctx, k); err != nil {
				return f.distrust(ctx, message.Errorf(nil, "writing again what the server may have lost: %w", err))
			}
		}
		if done, err := f.commit(ctx, kept); done || err != nil {
			return err
		}
	}
	return message.Errorf(nil, "the server was restarted %d times while what was written was to become durable", restarts)
}

// Loosely makes the first most bytes that are written not be kept when they are answered, nor be
// committed by themselves, for callers that do not need them durable: it is faster, as long as the
// server has room for them in its memory. If it is restarted then, the file fails. After so
// many bytes they are committed, and everything is kept from then on. It is called before the
// first write.
func (f *File) Loosely(most int64) { f.loose, f.loosely = true, most }

// tighten commits what was written loosely, and keeps what is written from now on.
func (f *File) tighten(ctx context.Context) error {
	if err := take(ctx, f.committing, 1); err != nil {
		return err
	}
	defer give(f.committing, 1)
	if err := take(ctx, f.order, shares); err != nil {
		return err
	}
	defer give(f.order, shares)
	f.mu.Lock()
	loose := f.loose
	f.mu.Unlock()
	if !loose {
		return nil
	}
	if err := f.commitLoose(ctx); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loose = false
	return nil
}

// ErrForgotten is the error of a file that was written loosely, when the server has been restarted.
var ErrForgotten = message.Errorf(nil, "the server was restarted, and may have lost what was written: with a cache mode other than unsafe it is kept, and written again")

// pass notes a change of a loose file that is done. An error says that the server has lost earlier
// ones. It is called with mu.
func (f *File) pass(k *change) error {
	if f.known && f.wrote && k.verifier != f.verifier {
		return ErrForgotten
	}
	f.verifier, f.known, f.wrote = k.verifier, true, true
	f.passed += k.n
	return nil
}

// roomLoose is room for a loose file: it waits for the oldest ones under way.
func (f *File) roomLoose(ctx context.Context, n int) error {
	for {
		f.mu.Lock()
		var oldest []*change
		if f.bytes+int64(n) > maxKept && len(f.kept) > 0 {
			oldest = f.kept[:1:1]
		}
		f.mu.Unlock()
		if oldest == nil {
			return nil
		}
		if err := f.wait(ctx, oldest); err != nil {
			return err
		}
	}
}

// commitLoose is Sync for a loose file, with nothing under way that was before.
func (f *File) commitLoose(ctx context.Context) error {
	f.mu.Lock()
	wrote, err := f.wrote, f.failed
	f.wrote = f.wrote && err != nil // what is done meanwhile counts again
	f.mu.Unlock()
	if err != nil || !wrote {
		return err
	}
	v, err := f.c.p.commit(ctx, f.h)
	if err != nil {
		f.mu.Lock()
		f.wrote = true
		f.mu.Unlock()
		return message.Errorf(nil, "committing what was written: %w", f.c.explain(err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if v != f.verifier {
		f.failed = ErrForgotten
		return ErrForgotten
	}
	return nil
}
