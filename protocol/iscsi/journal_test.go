package iscsi

import (
	"bytes"
	"context"
	"testing"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/iscsi"
)

// target is given commands, and keeps what they write.
type target func(c *iscsi.Command)

// Do implements iscsi.Doer.
func (f target) Do(_ context.Context, c *iscsi.Command) error { f(c); return nil }

// TestReplayOfDropped wants a replay to write what was held when it began, whatever is dropped and written
// meanwhile.
func TestReplayOfDropped(t *testing.T) {
	const length, count = 64 << 10, 8
	fill := func(i int) []byte { return bytes.Repeat([]byte{byte(i)}, length) }
	j := &journal{}
	for i := range count {
		e := &entry{at: iscsi.Transfer{LBA: uint64(i), Blocks: length / 512}, data: fill(i), done: true}
		e.own()
		if !e.lent {
			t.Fatal("a long copy is not in a buffer that is used again")
		}
		j.entries, j.bytes = append(j.entries, e), j.bytes+e.cost()
	}
	written := 0
	err := j.replay(context.Background(), iscsi.LUN{Doer: target(func(c *iscsi.Command) {
		if written == 0 {
			j.mu.Lock()
			j.drop(func(e *entry) bool { return true })
			j.mu.Unlock()
			for range 2 * count {
				clear(bufpool.Get(length)[:length])
			}
		}
		if !bytes.Equal(c.Out, fill(written)) {
			t.Errorf("entry %d has other bytes", written)
		}
		written++
	})}, 512)
	if err != nil || written != count {
		t.Fatal(written, err)
	}
	if len(j.entries) != 0 || j.bytes != 0 || j.replays != 0 {
		t.Fatal(len(j.entries), j.bytes, j.replays)
	}
}

// TestOwn wants copies, with their memory counted.
func TestOwn(t *testing.T) {
	for _, n := range []int{0, 512, lentFrom - 512, lentFrom, lentFrom + 512, piece} {
		p := bytes.Repeat([]byte{1}, n)
		e := &entry{data: p}
		e.own()
		clear(p)
		if len(e.data) != n || bytes.Contains(e.data, []byte{0}) {
			t.Fatalf("%d bytes: no copy", n)
		}
		if e.lent != (n >= lentFrom) || e.cost() != int64(cap(e.data))+entryCost {
			t.Fatal(n, e.lent, e.cost())
		}
	}
	zeroes := &entry{zero: true}
	if zeroes.own(); zeroes.data != nil || zeroes.cost() != entryCost {
		t.Fatal(zeroes)
	}
}
