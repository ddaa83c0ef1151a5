package nfs

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

// Arguments of OPEN (RFC 8881, section 18.16).
const (
	shareRead      = 1
	shareBoth      = 3
	wantNoDeleg    = 0x0400
	openCreate     = 1
	createUnchk4   = 0
	createGuard4   = 1
	createExcl41   = 3
	claimNull      = 0
	claimPrevious  = 1
	claimFH        = 4
	delegationNone = 0
	seekData       = 0
	seekHole       = 1
)

// Attributes (RFC 8881, sections 5.8 and 5.9): bits of the first and the second word.
const (
	attrType      = 1 << 1
	attrSize      = 1 << 4
	attrLease     = 1 << 10
	attrMaxRead   = 1 << 30
	attrMaxWrite  = 1 << 31
	attrMode      = 1 << (33 - 32)
	attrSpaceUsed = 1 << (45 - 32)
)

// openState is what the server keeps of an open file of version 4.
type openState struct {
	name  string
	write bool

	mu  sync.Mutex
	id  stateID
	err error // it could not be opened again
}

// stateID is stateid4: a number and what it is of.
type stateID [16]byte

// anonymous is that of no open file (RFC 8881, section 8.2.3).
var anonymous stateID

func (v *version4) version() string           { return fmt.Sprintf("4.%d", v.minor) }
func (v *version4) limits() (read, write int) { return v.rmax, v.wmax }

// attributes are what fattr4 can tell here.
type attributes struct {
	Attr
	lease             uint32
	maxRead, maxWrite uint64
}

func wanted(e *oncrpc.Encoder, first, second uint32) {
	e.Uint32(2)
	e.Uint32(first)
	e.Uint32(second)
}

func bitmap(d *oncrpc.Decoder) (first, second uint32) {
	n := d.Uint32()
	if n > 8 {
		d.Fail()
	}
	for i := range min(n, 8) {
		switch word := d.Uint32(); i {
		case 0:
			first = word
		case 1:
			second = word
		default:
			if word != 0 {
				d.Fail() // it was not asked for
			}
		}
	}
	return first, second
}

func fattr4(d *oncrpc.Decoder, a *attributes) {
	first, second := bitmap(d)
	list := oncrpc.NewDecoder(d.Opaque(maxReply))
	if first&^(attrType|attrSize|attrLease|attrMaxRead|attrMaxWrite) != 0 || second&^(attrMode|attrSpaceUsed) != 0 {
		d.Fail()
		return
	}
	a.Used = -1
	if first&attrType != 0 {
		kind := list.Uint32()
		a.Regular, a.Directory = kind == typeRegular, kind == typeDirectory
	}
	if first&attrSize != 0 {
		a.Size = length(list)
	}
	if first&attrLease != 0 {
		a.lease = list.Uint32()
	}
	if first&attrMaxRead != 0 {
		a.maxRead = list.Uint64()
	}
	if first&attrMaxWrite != 0 {
		a.maxWrite = list.Uint64()
	}
	if second&attrMode != 0 {
		a.Mode = list.Uint32()
	}
	if second&attrSpaceUsed != 0 {
		a.Used = length(list)
	}
	if list.Err() != nil {
		d.Fail()
	}
}

// lookupRoot finds the directory, from the root of the server on.
func (v *version4) lookupRoot(ctx context.Context, directory string) error {
	v.mu.Lock()
	s := v.s
	v.mu.Unlock()
	if err := v.reclaimed(ctx, s); err != nil {
		return err
	}
	names := components(directory)
	if len(names) > 1024 {
		return message.Errorf(nil, "a path has at most %d names", 1024)
	}
	var a attributes
	// Servers take only so many operations at once.
	for first := true; first || len(names) > 0; first = false {
		part := names[:min(len(names), maxOps-6)]
		from := v.root
		err := v.do(ctx, func(c *compound) {
			if from == nil {
				c.op(opPutrootfh, nil)
			} else {
				c.op(opPutfh, nil).Opaque(from)
			}
			for _, n := range part {
				c.op(opLookup, nil).String(n)
			}
			c.op(opGetfh, func(d *oncrpc.Decoder) { v.root = d.Opaque(maxHandle) })
			wanted(c.op(opGetattr, func(d *oncrpc.Decoder) { fattr4(d, &a) }), attrType|attrLease|attrMaxRead|attrMaxWrite, 0)
		})
		if err != nil {
			return err
		}
		names = names[len(part):]
	}
	if a.lease > 0 {
		v.lease = time.Duration(min(a.lease, 3600)) * time.Second
	}
	if a.maxRead > 0 {
		v.rmax = min(v.rmax, transfer(a.maxRead))
	}
	if a.maxWrite > 0 {
		v.wmax = min(v.wmax, transfer(a.maxWrite))
	}
	return nil
}

// openOp adds OPEN, and what is asked for of the file.
func (v *version4) openOp(c *compound, s *session, st *openState, id *stateID, claim uint32, create func(e *oncrpc.Encoder)) {
	e := c.op(opOpen, func(d *oncrpc.Decoder) {
		copy(id[:], d.Fixed(len(id)))
		d.Fixed(4 + 8 + 8) // change_info4
		d.Uint32()         // flags
		bitmap(d)
		delegation(d)
	})
	e.Uint32(0)
	if st.write {
		e.Uint32(shareBoth | wantNoDeleg)
	} else {
		e.Uint32(shareRead | wantNoDeleg)
	}
	e.Uint32(0) // nothing is denied to others
	e.Uint64(s.clientID)
	e.Opaque(fmt.Appendf(nil, "%p", st))
	if create == nil {
		e.Uint32(0)
	} else {
		e.Uint32(openCreate)
		create(e)
	}
	switch e.Uint32(claim); claim {
	case claimNull:
		e.String(st.name)
	case claimPrevious:
		e.Uint32(delegationNone)
	}
}

// delegation takes one, although none is wanted.
func delegation(d *oncrpc.Decoder) {
	ace := func() { d.Fixed(12); d.Opaque(1024) }
	switch d.Uint32() {
	case delegationNone:
	case 1:
		d.Fixed(16 + 4)
		ace()
	case 2:
		d.Fixed(16 + 4)
		d.Fixed(12) // a limit of either kind: the kind and eight bytes
		ace()
	case 3:
		if why := d.Uint32(); why == 1 || why == 2 {
			d.Uint32()
		}
	default:
		d.Fail()
	}
}

func (v *version4) open(ctx context.Context, name string, write bool) (*handle, Attr, error) {
	h := &handle{openState: &openState{name: name, write: write}}
	return v.opened(ctx, h, nil)
}

func (v *version4) opened(ctx context.Context, h *handle, create func(e *oncrpc.Encoder)) (*handle, Attr, error) {
	var a attributes
	err := v.do(ctx, func(c *compound) {
		v.mu.Lock()
		s := v.s
		v.mu.Unlock()
		c.op(opPutfh, nil).Opaque(v.root)
		v.openOp(c, s, h.openState, &h.id, claimNull, create)
		c.op(opGetfh, func(d *oncrpc.Decoder) { h.fh = d.Opaque(maxHandle) })
		wanted(c.op(opGetattr, func(d *oncrpc.Decoder) { fattr4(d, &a) }), attrType|attrSize, attrMode|attrSpaceUsed)
	})
	if err != nil {
		if create == nil {
			err = lookupError(h.name, err)
		}
		return nil, Attr{}, err
	}
	v.mu.Lock()
	v.files[h] = true
	v.mu.Unlock()
	return h, a.Attr, nil
}

func (v *version4) create(ctx context.Context, name string, mode uint32) (*handle, Attr, bool, error) {
	h := &handle{openState: &openState{name: name, write: true}}
	attrs := func(e *oncrpc.Encoder) {
		e.Uint32(2)
		e.Uint32(0)
		e.Uint32(attrMode)
		e.Uint32(4)
		e.Uint32(mode)
	}
	// The session makes sure that a creation that is sent again is done once; after a loss of
	// the session the verifier does.
	verifier := newVerifier()
	got, a, err := v.opened(ctx, h, func(e *oncrpc.Encoder) {
		e.Uint32(createExcl41)
		e.Fixed(verifier)
		attrs(e)
	})
	if isStatus(err, errNotSupp) {
		got, a, err = v.opened(ctx, h, func(e *oncrpc.Encoder) { e.Uint32(createGuard4); attrs(e) })
	}
	if isStatus(err, errExist) {
		got, a, err = v.open(ctx, name, true)
		return got, a, false, err
	}
	return got, a, true, err
}

// reopen opens a file again in a new session: by what it was, or as a new one if the server
// was not restarted or its grace period is over.
func (v *version4) reopen(ctx context.Context, s *session, h *handle) error {
	var id stateID
	err := patient(ctx, v.cfg, func() error {
		return v.in(ctx, s, func(c *compound) {
			c.op(opPutfh, nil).Opaque(h.fh)
			v.openOp(c, s, h.openState, &id, claimPrevious, nil)
		})
	})
	if err != nil && ctx.Err() == nil && !lost(err) {
		// No other client can have changed what is known of the file: nothing is kept of it here
		// that its locks protect.
		if rerr := v.reclaimed(ctx, s); rerr != nil {
			return rerr
		}
		err = patient(ctx, v.cfg, func() error {
			return v.in(ctx, s, func(c *compound) {
				c.op(opPutfh, nil).Opaque(h.fh)
				v.openOp(c, s, h.openState, &id, claimFH, nil)
			})
		})
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.id, h.err = id, nil
	if err != nil && !lost(err) {
		h.err = message.Errorf(nil, "the server has lost the state of '%s', and it cannot be opened again: %w", h.name, err)
	}
	return err
}

// state is the stateid of a file.
func (h *handle) state() (stateID, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.id, h.err
}

// of makes a call about a file; f adds the operation, which needs the file's state.
func (v *version4) of(ctx context.Context, h *handle, f func(c *compound, id stateID)) error {
	var failed error
	err := v.do(ctx, func(c *compound) {
		id, err := h.state()
		if failed = err; err != nil {
			id = anonymous
		}
		c.op(opPutfh, nil).Opaque(h.fh)
		if err == nil {
			f(c, id)
		}
	})
	if failed != nil {
		return failed
	}
	return err
}

func (v *version4) remove(ctx context.Context, name string) error {
	tries := 0
	err := v.do(ctx, func(c *compound) {
		tries++
		c.op(opPutfh, nil).Opaque(v.root)
		c.op(opRemove, func(d *oncrpc.Decoder) { d.Fixed(20) }).String(name)
	})
	if tries > 1 && isStatus(err, errNoEnt) {
		return nil
	}
	return err
}

func (v *version4) getattr(ctx context.Context, h *handle) (Attr, error) {
	var a attributes
	err := v.of(ctx, h, func(c *compound, _ stateID) {
		wanted(c.op(opGetattr, func(d *oncrpc.Decoder) { fattr4(d, &a) }), attrType|attrSize, attrMode|attrSpaceUsed)
	})
	return a.Attr, err
}

func (v *version4) resize(ctx context.Context, h *handle, size int64) error {
	return v.of(ctx, h, func(c *compound, id stateID) {
		e := c.op(opSetattr, func(d *oncrpc.Decoder) { bitmap(d) })
		e.Fixed(id[:])
		e.Uint32(1)
		e.Uint32(attrSize)
		e.Uint32(8)
		e.Uint64(uint64(size))
	})
}

func (v *version4) read(ctx context.Context, h *handle, p []byte, off int64) (n int, eof bool, err error) {
	err = v.of(ctx, h, func(c *compound, id stateID) {
		c.most = len(p)
		e := c.op(opRead, func(d *oncrpc.Decoder) {
			eof = d.Bool()
			n = copy(p, d.Opaque(len(p)))
			d.Release()
		})
		e.Fixed(id[:])
		e.Uint64(uint64(off))
		e.Uint32(uint32(len(p)))
	})
	return n, eof, err
}

func (v *version4) write(ctx context.Context, h *handle, payload []byte, n int, off int64) (written int, ver verifier, durable bool, err error) {
	err = v.of(ctx, h, func(c *compound, id stateID) {
		e := c.op(opWrite, func(d *oncrpc.Decoder) { written, durable, ver = wrote(d, n) })
		e.Fixed(id[:])
		e.Uint64(uint64(off))
		e.Uint32(stableUnstable)
		e.Uint32(uint32(n))
		c.payload = payload
	})
	return written, ver, durable, err
}

func (v *version4) commit(ctx context.Context, h *handle) (ver verifier, err error) {
	err = v.of(ctx, h, func(c *compound, _ stateID) {
		e := c.op(opCommit, func(d *oncrpc.Decoder) { copy(ver[:], d.Fixed(len(ver))) })
		e.Uint64(0)
		e.Uint32(0)
	})
	return ver, err
}

func (v *version4) seek(ctx context.Context, h *handle, off int64, hole bool) (next int64, eof bool, err error) {
	if v.minor < 2 {
		return 0, false, check(4, errNotSupp)
	}
	err = v.of(ctx, h, func(c *compound, id stateID) {
		e := c.op(opSeek, func(d *oncrpc.Decoder) { eof, next = d.Bool(), length(d) })
		e.Fixed(id[:])
		e.Uint64(uint64(off))
		if hole {
			e.Uint32(seekHole)
		} else {
			e.Uint32(seekData)
		}
	})
	return next, eof, err
}

func (v *version4) deallocate(ctx context.Context, h *handle, off, n int64) error {
	if v.minor < 2 {
		return check(4, errNotSupp)
	}
	return v.of(ctx, h, func(c *compound, id stateID) {
		e := c.op(opDeallocate, nil)
		e.Fixed(id[:])
		e.Uint64(uint64(off))
		e.Uint64(uint64(n))
	})
}

// release closes a file, if the server answers soon: it would forget it with the client
// anyway.
func (v *version4) release(ctx context.Context, h *handle) error {
	v.mu.Lock()
	delete(v.files, h)
	s := v.s
	v.mu.Unlock()
	id, err := h.state()
	if err != nil || ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, farewell)
	defer cancel()
	_ = v.in(ctx, s, func(c *compound) {
		c.op(opPutfh, nil).Opaque(h.fh)
		e := c.op(opClose, func(d *oncrpc.Decoder) { d.Fixed(16) })
		e.Uint32(0)
		e.Fixed(id[:])
	})
	return nil
}
