package native

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/nbd/client"
)

// testSlots are slots whose other end the test plays. They are lost when an answer is wrong.
func testSlots(t *testing.T) (s *slots, theirs net.Conn, broken chan error) {
	t.Helper()
	ours, theirs := net.Pipe()
	lost, broken := make(chan struct{}), make(chan error, 1)
	mem, f, err := sharedMemory(link.SlotCount * link.SlotSize)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	s = newSlots(ours, mem, lost, func(err error) { broken <- err; close(lost) })
	t.Cleanup(func() { theirs.Close(); s.close() })
	return s, theirs, broken
}

// answer does a request with a disk in memory.
func answer(s *slots, to net.Conn, q link.SlotRequest, disk []byte) {
	p, at := s.bytes(q.Slot, int(q.Length)), disk[q.Offset:]
	if q.Op == link.SlotWrite {
		copy(at, p)
	} else {
		copy(p, at)
	}
	_, _ = to.Write((&link.SlotReply{Slot: q.Slot}).Append(nil))
}

// TestSlots has more bytes under way than there are slots, whose answers come in another order.
func TestSlots(t *testing.T) {
	s, theirs, _ := testSlots(t)
	const users, size = link.SlotCount + 3, 2*link.SlotSize + 5
	disk := make([]byte, users*size)
	requests := make(chan link.SlotRequest, link.SlotCount)
	go func() {
		defer close(requests)
		for q := (link.SlotRequest{}); q.Receive(theirs) == nil; {
			requests <- q
		}
	}()
	go func() {
		for q := range requests {
			held := []link.SlotRequest{q}
			for more := true; more; {
				select {
				case q, ok := <-requests:
					if more = ok; ok {
						held = append(held, q)
					}
				default:
					more = false
				}
			}
			slices.Reverse(held)
			for _, q := range held {
				answer(s, theirs, q, disk)
			}
		}
	}()
	var wg sync.WaitGroup
	for i := range users {
		wg.Go(func() {
			want, got := bytes.Repeat([]byte{byte(i + 1)}, size), make([]byte, size)
			if err := s.do(t.Context(), link.SlotWrite, want, int64(i)*size); err != nil {
				t.Error(err)
			}
			if err := s.do(t.Context(), link.SlotRead, got, int64(i)*size); err != nil || !bytes.Equal(got, want) {
				t.Errorf("user %d reads something else: %v", i, err)
			}
			p, free, err := s.fetch(t.Context(), link.SlotSize, int64(i)*size+1)
			if err != nil || !bytes.Equal(p, want[:link.SlotSize]) {
				t.Errorf("user %d fetches something else: %v", i, err)
			}
			free()
		})
	}
	wg.Wait()
	if len(s.room) != link.SlotCount || len(s.free) != link.SlotCount {
		t.Errorf("%d slots are free, and room for %d", len(s.free), len(s.room))
	}
}

// TestSlotGivenUp wants a slot that the program has not to be used again before it answers.
func TestSlotGivenUp(t *testing.T) {
	s, theirs, _ := testSlots(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.do(ctx, link.SlotWrite, make([]byte, 2*link.SlotSize), 0) }()
	var q [2]link.SlotRequest
	for i := range q {
		if err := q[i].Receive(theirs); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if n := len(s.room); n != link.SlotCount-2 {
		t.Errorf("%d slots are free while the program has two", n)
	}
	for i := range q {
		answer(s, theirs, q[i], make([]byte, 2*link.SlotSize))
	}
	// What comes next finds all slots free, in whatever order answers are taken.
	for range link.SlotCount {
		if _, ok, err := s.take(t.Context(), true); !ok || err != nil {
			t.Error(ok, err)
		}
	}
	if _, ok, _ := s.take(t.Context(), false); ok {
		t.Error("there are more slots than there were")
	}
}

// TestSlotErrors wants errors of the disk to keep their number, and to cost no slot.
func TestSlotErrors(t *testing.T) {
	s, theirs, _ := testSlots(t)
	go func() {
		for q := (link.SlotRequest{}); q.Receive(theirs) == nil; {
			_, _ = theirs.Write((&link.SlotReply{Slot: q.Slot, Errno: uint32(syscall.EDQUOT)}).Append(nil))
		}
	}()
	for range link.SlotCount + 1 {
		if err := s.do(t.Context(), link.SlotRead, make([]byte, 3*link.SlotSize), 0); !errors.Is(err, syscall.EDQUOT) {
			t.Fatal(err)
		}
		if _, _, err := s.fetch(t.Context(), 1, 0); !errors.Is(err, syscall.EDQUOT) {
			t.Fatal(err)
		}
	}
}

// TestSlotsHostile wants answers that make no sense to end the conversation and what waits for it.
func TestSlotsHostile(t *testing.T) {
	for name, bytes := range map[string][]byte{
		"no such slot":      (&link.SlotReply{Slot: link.SlotCount}).Append(nil),
		"not asked for":     (&link.SlotReply{Slot: 3}).Append(nil),
		"no such error":     (&link.SlotReply{Slot: 0, Errno: 5000}).Append(nil),
		"half an answer":    {0, 0, 0},
		"answers two times": append((&link.SlotReply{Slot: 0, Errno: 5}).Append(nil), (&link.SlotReply{Slot: 0}).Append(nil)...),
	} {
		t.Run(name, func(t *testing.T) {
			s, theirs, broken := testSlots(t)
			go func() {
				var q link.SlotRequest
				_ = q.Receive(theirs)
				_, _ = theirs.Write(bytes)
				theirs.Close()
			}()
			err := s.do(t.Context(), link.SlotRead, make([]byte, 10), 0)
			if err == nil || !errors.Is(err, client.ErrLost) && !errors.Is(err, syscall.EIO) {
				t.Error(err)
			}
			if err := <-broken; err == nil {
				t.Error("it goes on")
			}
			for range link.SlotCount + 1 { // in the end there is no slot
				if err = s.do(t.Context(), link.SlotRead, make([]byte, 10), 0); !errors.Is(err, client.ErrLost) {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestSlotsOfProcess wants a program that answers nonsense about slots to be told of as such.
func TestSlotsOfProcess(t *testing.T) {
	as(t, "odd slots")
	d, err := theirs().Open(t.Context(), nil, int64(1<<20), Options{Write: true})
	if err == nil { // it is seen by now, or by the first request
		defer d.Close(t.Context())
		_, err = d.WriteAt(t.Context(), make([]byte, 10), 0)
	}
	if err == nil || !strings.Contains(err.Error(), "gives no sensible answer") {
		t.Error(err)
	}
}

// TestMemorySealed wants memory that a child has to keep its size.
func TestMemorySealed(t *testing.T) {
	mem, f, err := sharedMemory(1 << 20)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	defer unmap(mem)
	for _, size := range []int64{0, 1<<20 - 4096, 2 << 20} {
		if err := f.Truncate(size); !errors.Is(err, syscall.EPERM) {
			t.Errorf("it can have %d bytes: %v", size, err)
		}
	}
}
