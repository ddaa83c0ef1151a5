package native

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/link"
	"github.com/cowl-disk/cowl/nbd/client"
)

// slots are the memory through which bytes go to the program and come from it, and the
// socket on which it is told so. Its methods may be called from several goroutines.
//
// slots.mu is a leaf. A slot whose request was given up comes back with its answer.
type slots struct {
	conn   net.Conn
	mem    []byte
	room   chan struct{} // has as many as there are free slots
	lost   <-chan struct{}
	closed chan struct{} // nothing is received any more

	sending sync.Mutex
	mu      sync.Mutex
	free    []uint32 // the last one is taken first: its memory is there and in caches
	state   [link.SlotCount]slot
}

// slot is a slot that is in use.
type slot struct {
	sent     bool // the program has it
	left     bool // nobody waits for the answer
	answered chan uint32
}

// newSlots makes slots of memory. What is received ends with lost, and calls broken first if it is
// no sensible answer or the socket ends.
func newSlots(conn net.Conn, mem []byte, lost <-chan struct{}, broken func(error)) *slots {
	s := &slots{conn: conn, mem: mem, room: make(chan struct{}, link.SlotCount), lost: lost, closed: make(chan struct{})}
	for i := range s.state {
		s.state[i].answered = make(chan uint32, 1)
		s.free = append(s.free, uint32(link.SlotCount-1-i))
		s.room <- struct{}{}
	}
	go func() {
		defer close(s.closed)
		broken(s.receive())
	}()
	return s
}

// receive takes answers until there are no more.
func (s *slots) receive() error {
	r := bufio.NewReader(s.conn)
	for {
		var reply link.SlotReply
		if err := reply.Receive(r); err != nil {
			return err
		}
		if !s.answer(reply) {
			return fmt.Errorf("an answer about slot %d, which it does not have", reply.Slot)
		}
	}
}

func (s *slots) answer(reply link.SlotReply) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := &s.state[reply.Slot]
	if !t.sent {
		return false
	}
	t.sent = false
	if t.left {
		s.release(reply.Slot)
	} else {
		t.answered <- reply.Errno
	}
	return true
}

// release is called with mu.
func (s *slots) release(n uint32) {
	s.state[n].left = false
	s.free = append(s.free, n)
	s.room <- struct{}{}
}

// put gives a slot back that the program does not have.
func (s *slots) put(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release(n)
}

// leave gives a slot back as soon as the program does.
func (s *slots) leave(n uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state[n].sent {
		s.state[n].left = true
		return
	}
	<-s.state[n].answered
	s.release(n)
}

// take takes a slot. With wait false, it returns false where there is none at once.
func (s *slots) take(ctx context.Context, wait bool) (n uint32, ok bool, err error) {
	select {
	case <-s.room:
	default:
		if !wait {
			return 0, false, nil
		}
		select {
		case <-s.room:
		case <-s.lost:
			return 0, false, client.ErrLost
		case <-ctx.Done():
			return 0, false, ctx.Err()
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n = s.free[len(s.free)-1]
	s.free = s.free[:len(s.free)-1]
	return n, true, nil
}

func (s *slots) bytes(n uint32, length int) []byte {
	return s.mem[int(n)*link.SlotSize:][:length:length]
}

// send asks the program to read or write a slot, which leave or wait gives back.
func (s *slots) send(op, n uint32, length int, off int64) error {
	s.mu.Lock()
	s.state[n].sent = true
	s.mu.Unlock()
	var b [24]byte
	r := link.SlotRequest{Op: op, Slot: n, Length: uint32(length), Offset: uint64(off)}
	s.sending.Lock()
	defer s.sending.Unlock()
	if _, err := s.conn.Write(r.Append(b[:0])); err != nil {
		return fmt.Errorf("%w: %w", client.ErrLost, err)
	}
	return nil
}

// wait waits for the answer about a slot. After an error that is none of the answer's, the slot is
// given back.
func (s *slots) wait(ctx context.Context, n uint32) (errno uint32, err error) {
	select {
	case errno = <-s.state[n].answered:
		return errno, nil
	case <-s.lost:
		err = client.ErrLost
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.leave(n)
	return 0, err
}

// part is a part of a request that is under way.
type part struct {
	slot uint32
	p    []byte
}

// do reads or writes p at off, in parts that are under way together.
func (s *slots) do(ctx context.Context, op uint32, p []byte, off int64) (err error) {
	var parts []part
	defer func() {
		for _, t := range parts {
			s.leave(t.slot)
		}
	}()
	for len(p) > 0 || len(parts) > 0 {
		if len(p) > 0 {
			// Who holds slots does not wait for more: others may do so, too.
			n, ok, err := s.take(ctx, len(parts) == 0)
			if err != nil {
				return err
			}
			if ok {
				length := min(len(p), link.SlotSize)
				if op == link.SlotWrite {
					copy(s.bytes(n, length), p)
				}
				parts = append(parts, part{n, p[:length]})
				if err := s.send(op, n, length, off); err != nil {
					return err
				}
				p, off = p[length:], off+int64(length)
				continue
			}
		}
		first := parts[0]
		parts = parts[1:]
		errno, err := s.wait(ctx, first.slot)
		if err != nil {
			return err
		}
		if op == link.SlotRead && errno == 0 {
			copy(first.p, s.bytes(first.slot, len(first.p)))
		}
		s.put(first.slot)
		if errno != 0 {
			return syscall.Errno(errno)
		}
	}
	return nil
}

// fetch reads n bytes, no more than a slot has, at off. They stay in their slot until free is called,
// which is not nil if err is.
func (s *slots) fetch(ctx context.Context, n int, off int64) (p []byte, free func(), err error) {
	slot, _, err := s.take(ctx, true)
	if err != nil {
		return nil, nil, err
	}
	if err := s.send(link.SlotRead, slot, n, off); err != nil {
		s.leave(slot)
		return nil, nil, err
	}
	errno, err := s.wait(ctx, slot)
	if err != nil {
		return nil, nil, err
	}
	if errno != 0 {
		s.put(slot)
		return nil, nil, syscall.Errno(errno)
	}
	return s.bytes(slot, n), func() { s.put(slot) }, nil
}

// close lets go of the memory. No request is under way, and the program is gone.
func (s *slots) close() {
	s.conn.Close()
	<-s.closed
	if s.mem != nil {
		unmap(s.mem)
		s.mem = nil
	}
}
