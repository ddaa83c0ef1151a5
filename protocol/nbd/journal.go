package nbd

import (
	"context"
	"slices"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// journal holds what was written since the last flush, where requests survive the
// loss of the connection: a server that was killed and started again may have lost
// it, although it had answered.
type journal struct {
	entries []entry
	bytes   int64
	first   uint64 // number of entries[0]
}

// entry is a change.
type entry struct {
	off, n  int64
	data    []byte // its own copy; nil for zeroes
	zero    bool
	options client.ZeroOptions
}

// maxJournal is how many bytes of changes are held before a flush makes them
// durable.
const maxJournal = 32 << 20

// entryCost is what an entry counts for, besides its data.
const entryCost = 128

// remember holds a change until the next flush, if it may have to be made again.
func (n *node) remember(ctx context.Context, e entry) error {
	if n.opt.ReconnectDelay == 0 {
		return nil
	}
	e.data = slices.Clone(e.data)
	n.mu.Lock()
	n.journal.entries = append(n.journal.entries, e)
	n.journal.bytes += int64(len(e.data)) + entryCost
	full := n.journal.bytes > maxJournal
	n.mu.Unlock()
	if full {
		return n.Flush(ctx)
	}
	return nil
}

// mark returns the number of the entry that comes next.
func (n *node) mark() uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.journal.first + uint64(len(n.journal.entries))
}

// forget drops the entries before mark: they are durable.
func (n *node) forget(mark uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	j := &n.journal
	if mark <= j.first {
		return
	}
	k := min(int(mark-j.first), len(j.entries))
	for _, e := range j.entries[:k] {
		j.bytes -= int64(len(e.data)) + entryCost
	}
	j.entries = slices.Delete(j.entries, 0, k)
	j.first += uint64(k)
}

// replay makes the changes again that may be lost, on a new connection that no request
// else uses yet, and makes them durable.
func (n *node) replay(ctx context.Context, c *client.Conn) error {
	n.mu.Lock()
	list := slices.Clone(n.journal.entries)
	mark := n.journal.first + uint64(len(list))
	n.mu.Unlock()
	for _, e := range list {
		var err error
		if e.zero {
			err = c.WriteZeroes(ctx, e.off, e.n, e.options)
		} else {
			err = c.WriteAt(ctx, e.data, e.off, false)
		}
		if err != nil {
			return err
		}
	}
	if len(list) == 0 || c.Info().Flags&wire.FlagSendFlush == 0 {
		return nil
	}
	if err := c.Flush(ctx); err != nil {
		return err
	}
	n.forget(mark)
	return nil
}
