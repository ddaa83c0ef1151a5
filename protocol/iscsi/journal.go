package iscsi

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/iscsi"
)

// Bounds of a journal, in bytes.
const (
	syncFrom  = 20 << 20 // from here on the cache is synchronised, while writes go on
	maxHeld   = 40 << 20 // from here on writes wait for that
	entryCost = 256      // what an entry counts for, besides its data
	lentFrom  = 4 << 10  // copies of this length or longer are in buffers that are used again
)

// entry is a change.
type entry struct {
	at      iscsi.Transfer
	data    []byte // a copy once it is in the journal; nil for zeroes
	lent    bool   // data is from bufpool
	zero    bool
	unmap   bool
	discard bool

	done    bool   // the target has answered
	covered uint64 // the first synchronisation that began after that; 0: none yet
}

func (e *entry) cost() int64 { return int64(cap(e.data)) + entryCost }

// own makes data a copy.
func (e *entry) own() {
	if len(e.data) < lentFrom {
		e.data = slices.Clone(e.data)
		return
	}
	b := bufpool.Get(len(e.data))
	copy(b, e.data)
	e.data, e.lent = b, true
}

// write makes the change.
func (e *entry) write(ctx context.Context, l iscsi.LUN, block int64) error {
	switch {
	case e.discard:
		return l.Unmap(ctx, iscsi.BlockRange{LBA: e.at.LBA, Blocks: e.at.Blocks})
	case e.zero:
		return l.WriteSame(ctx, make([]byte, block), e.at, e.unmap)
	}
	return l.Write(ctx, e.data, e.at)
}

// journal holds what was written since the cache of the target was synchronised. An
// entry is there before it is sent, so that nothing that was answered is ever missing.
type journal struct {
	mu      sync.Mutex
	entries []*entry
	bytes   int64
	syncs   uint64        // synchronisations that began
	running chan struct{} // not nil: one runs in the background; closed after that
	failed  bool          // one failed: a target that says so may have dropped what its cache held
	replays int           // replays under way, which read data of entries that were dropped meanwhile

	// changing is held, shared, by changes that are sent, and alone by what writes old ones again.
	changing sync.RWMutex
}

// keeps says whether changes have to be held.
func (n *node) keeps() bool {
	return n.mode.WriteCache && !n.noFlush && n.opt.ReconnectDelay > 0
}

// change makes a change, which is in the journal meanwhile and until a synchronisation.
func (n *node) change(ctx context.Context, e *entry, f func(e *entry) error) error {
	if !n.keeps() {
		return f(e)
	}
	j := &n.journal
	if err := n.room(ctx); err != nil {
		return err
	}
	e.own()
	j.changing.RLock()
	defer j.changing.RUnlock()
	j.mu.Lock()
	j.entries = append(j.entries, e)
	j.bytes += e.cost()
	j.mu.Unlock()
	err := f(e)
	j.mu.Lock()
	e.done = true
	var sense *iscsi.SenseError
	var status *iscsi.StatusError
	if errors.As(err, &sense) || errors.As(err, &status) { // the target refused it
		j.drop(func(other *entry) bool { return other == e })
	}
	j.mu.Unlock()
	return err
}

// drop removes entries, which the target has answered. It is called with mu.
func (j *journal) drop(which func(e *entry) bool) {
	j.entries = slices.DeleteFunc(j.entries, func(e *entry) bool {
		if !which(e) {
			return false
		}
		j.bytes -= e.cost()
		if e.lent && j.replays == 0 {
			bufpool.Put(e.data)
		}
		return true
	})
}

// room starts a synchronisation where much is held, and waits for it where too much is. After
// one that failed there is another one, which the write waits for, when there is no room left.
func (n *node) room(ctx context.Context) error {
	j := &n.journal
	for {
		j.mu.Lock()
		if j.bytes >= syncFrom && j.running == nil && !j.failed {
			j.running = make(chan struct{})
			go n.background(j.running)
		}
		wait := j.running
		full := j.bytes >= maxHeld
		j.mu.Unlock()
		switch {
		case !full:
			return nil
		case wait == nil:
			if err := n.sync(ctx); err != nil {
				return err
			}
			continue
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// background synchronises the cache. It ends with the session. If it fails, nothing is lost: what
// was written is held, and the next Flush writes it again.
func (n *node) background(running chan struct{}) {
	_ = n.sync(context.Background())
	j := &n.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running = nil
	close(running)
}

// empty says whether nothing is held and nothing runs in the background.
func (j *journal) empty() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.entries) == 0 && j.running == nil
}

// wait waits for what runs in the background.
func (j *journal) wait() {
	j.mu.Lock()
	running := j.running
	j.mu.Unlock()
	if running != nil {
		<-running
	}
}

// sync makes what was written durable, and forgets it. After a failure it writes again what is
// held: whether the target still has it is unknown.
func (n *node) sync(ctx context.Context) error {
	j := &n.journal
	j.mu.Lock()
	if j.failed {
		j.mu.Unlock()
		return n.syncAgain(ctx)
	}
	j.syncs++
	mine := j.syncs
	for _, e := range j.entries {
		if e.done && e.covered == 0 {
			e.covered = mine
		}
	}
	j.mu.Unlock()
	if err := n.command(ctx); err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.drop(func(e *entry) bool { return e.covered != 0 && e.covered <= mine && !j.failed })
	return nil
}

// syncAgain is sync after one that failed. No changes are sent meanwhile.
func (n *node) syncAgain(ctx context.Context) error {
	j := &n.journal
	j.changing.Lock()
	defer j.changing.Unlock()
	j.mu.Lock()
	j.failed = false // what runs in the background may set it again, and is then not overlooked
	j.mu.Unlock()
	err := j.replay(ctx, n.lun, n.block())
	if err == nil {
		err = n.command(ctx)
	} else {
		err = n.syncError(ctx, err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	switch {
	case err != nil:
		j.failed = true
	case !j.failed:
		j.drop(func(e *entry) bool { return e.done })
	}
	return err
}

// command synchronises the cache of the target.
func (n *node) command(ctx context.Context) error {
	err := n.lun.Sync(ctx)
	if err == nil || iscsi.IsUnsupported(err) { // such a unit has no cache
		return nil
	}
	n.journal.mu.Lock()
	n.journal.failed = true
	n.journal.mu.Unlock()
	return n.syncError(ctx, err)
}

func (*node) syncError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return driver.Errorf(kindOf(err), "iSCSI SYNCHRONIZE CACHE failed: %w", err)
}

// replay makes the changes again that may be lost, in their order.
func (j *journal) replay(ctx context.Context, l iscsi.LUN, block int64) error {
	j.mu.Lock()
	list := slices.Clone(j.entries)
	j.replays++
	j.mu.Unlock()
	defer func() {
		j.mu.Lock()
		j.replays--
		j.mu.Unlock()
	}()
	for _, e := range list {
		if err := e.write(ctx, l, block); err != nil {
			return err
		}
	}
	return nil
}
