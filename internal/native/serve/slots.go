package serve

import (
	"bufio"
	"errors"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/link"
)

// serveSlots reads and writes the slots of memory that it is told of, until there is nobody who
// tells, or nothing sensible is told: cowl knows of it by the socket's end.
func (d *device) serveSlots() {
	defer d.Slots.Close()
	var (
		r     = bufio.NewReader(d.Slots)
		busy  [link.SlotCount]bool
		mu    sync.Mutex // for busy, and answers
		reply = func(slot uint32, err error) {
			a := link.SlotReply{Slot: slot, Errno: number(err)}
			mu.Lock()
			defer mu.Unlock()
			busy[slot] = false
			_, _ = d.Slots.Write(a.Append(nil)) // where it fails, so does receiving
		}
	)
	for {
		var q link.SlotRequest
		if q.Receive(r) != nil {
			return
		}
		mu.Lock()
		used := busy[q.Slot]
		busy[q.Slot] = true
		mu.Unlock()
		if used {
			return
		}
		p := d.Memory[int(q.Slot)*link.SlotSize:][:q.Length:q.Length]
		d.start(q.Op == link.SlotWrite, p, int64(q.Offset), func(err error) { reply(q.Slot, err) })
	}
}

// start begins a request.
func (d *device) start(write bool, p []byte, off int64, done func(error)) {
	disk := d.disk()
	op, f := "read", disk.ReadAt
	if write {
		op, f = "write", disk.WriteAt
	}
	ended := func(err error) { done(d.note(op, err)) }
	s, ok := disk.(Starter)
	switch {
	case !ok:
		go func() { ended(f(p, off)) }()
	case write:
		s.StartWrite(p, off, ended)
	default:
		s.StartRead(p, off, ended)
	}
}

// number is the number of an error, which has a reason beside it where it has none.
func number(err error) uint32 {
	if err == nil {
		return 0
	}
	var no syscall.Errno
	if errors.As(err, &no) && no > 0 {
		return uint32(no)
	}
	return uint32(syscall.EIO)
}
