package file

import (
	"context"
	"io"
	"math"
	"unsafe"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/rangelock"
)

// bounceSize is how much passes through an aligned buffer at once.
const bounceSize = 1 << 20

func (n *node) down(off int64) int64 { return off &^ (n.align - 1) }

// up saturates at the last aligned offset.
func (n *node) up(off int64) int64 {
	if off > math.MaxInt64-n.align {
		return n.down(math.MaxInt64)
	}
	return n.down(off + n.align - 1)
}

// memAligned tells whether the address of p is aligned for the device.
func (n *node) memAligned(p []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))&uintptr(n.mem-1) == 0
}

// readDirect reads past the page cache: whole blocks into p where its memory
// allows, everything else through a buffer.
func (n *node) readDirect(p []byte, off int64) (int, error) {
	var buf []byte
	defer func() { bufpool.Put(buf) }()
	done := 0
	for done < len(p) {
		pos := off + int64(done)
		head := pos - n.down(pos)
		rest := p[done:]
		if whole := n.down(int64(len(rest))); head == 0 && whole > 0 && n.memAligned(rest) {
			m, err := preadOnce(n.f, rest[:whole], pos)
			done += m
			if err != nil {
				return done, sysErrorf(err, "could not read '%s' at offset %d", n.name, pos)
			}
			if m == 0 || int64(m)%n.align != 0 {
				return done, io.EOF
			}
			continue
		}
		want := min(n.up(head+int64(len(rest))), bounceSize)
		if buf == nil {
			buf = bufpool.Get(int(want))
		}
		want = min(want, n.down(int64(cap(buf))))
		m, err := preadOnce(n.f, buf[:want], pos-head)
		if err != nil {
			return done, sysErrorf(err, "could not read '%s' at offset %d", n.name, pos)
		}
		if int64(m) <= head {
			return done, io.EOF
		}
		done += copy(rest, buf[head:m])
		if done < len(p) && int64(m)%n.align != 0 {
			return done, io.EOF
		}
	}
	return done, nil
}

// writeDirect writes past the page cache. Blocks that p covers in part are read
// first; no other write reaches them meanwhile.
func (n *node) writeDirect(ctx context.Context, p []byte, off int64) (int, error) {
	end := off + int64(len(p))
	// Where the last block reaches beyond the end of the file, the file is cut
	// again afterwards, and it must not grow meanwhile.
	cut := func() bool { return !n.device && n.up(end) != end && n.up(end) > n.Size() }
	mode := rangelock.Shared
	if n.down(off) != off || n.up(end) != end {
		mode = rangelock.Exclusive
	}
	for {
		toEnd := cut()
		length := n.up(end) - n.down(off)
		if toEnd {
			length = math.MaxInt64
		}
		held, err := n.ranges.Lock(ctx, n.down(off), length, mode)
		if err != nil {
			return 0, err
		}
		if cut() && !toEnd { // the file shrank while we waited
			held.Unlock()
			continue
		}
		done, err := n.writeBlocks(p, off)
		if toEnd && err == nil {
			err = n.cutTo(max(n.Size(), end))
		}
		if !toEnd {
			n.grown(off + int64(done))
		}
		if err != nil {
			n.regrown()
		}
		held.Unlock()
		return done, err
	}
}

// cutTo removes what a whole block wrote beyond the wanted end.
func (n *node) cutTo(size int64) error {
	n.sizeMu.Lock()
	defer n.sizeMu.Unlock()
	if err := n.f.Truncate(size); err != nil {
		return sysErrorf(err, "could not resize file")
	}
	n.size.Store(size)
	return nil
}

func (n *node) writeBlocks(p []byte, off int64) (done int, err error) {
	var buf []byte
	defer func() { bufpool.Put(buf) }()
	for done < len(p) {
		pos := off + int64(done)
		head := pos - n.down(pos)
		rest := p[done:]
		whole := n.down(int64(len(rest)))
		var m int
		switch {
		case head == 0 && whole > 0 && n.memAligned(rest):
			m, err = n.f.WriteAt(rest[:whole], pos)
		case head == 0 && whole > 0:
			if buf == nil {
				buf = bufpool.Get(int(min(whole, bounceSize)))
			}
			b := buf[:min(whole, n.down(int64(cap(buf))), bounceSize)]
			copy(b, rest)
			m, err = n.f.WriteAt(b, pos)
		default:
			if buf == nil {
				buf = bufpool.Get(int(n.align))
			}
			m, err = n.writeEdge(buf[:n.align], rest, pos, head)
		}
		done += m
		if err != nil {
			return done, sysErrorf(err, "could not write '%s' at offset %d", n.name, pos)
		}
	}
	return done, nil
}

// writeEdge changes part of the block around pos, using the buffer b.
func (n *node) writeEdge(b, p []byte, pos, head int64) (int, error) {
	clear(b) // what is beyond the end of the file
	if _, err := preadOnce(n.f, b, pos-head); err != nil {
		return 0, err
	}
	m := copy(b[head:], p)
	if _, err := n.f.WriteAt(b, pos-head); err != nil {
		return 0, err
	}
	return m, nil
}

// lockForZero excludes changes of allocation during read-modify-write. It locks
// nothing without direct I/O.
func (n *node) lockForZero(ctx context.Context, off, length int64) (unlock func(), err error) {
	if n.align == 0 {
		return func() {}, nil
	}
	held, err := n.ranges.Lock(ctx, off, length, rangelock.Exclusive)
	if err != nil {
		return nil, err
	}
	return held.Unlock, nil
}
