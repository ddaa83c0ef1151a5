package oncrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
)

const (
	lastFragment = 1 << 31 // of the header of a fragment (RFC 5531, section 11)
	maxFragments = 1024    // of one answer
	maxHeader    = 1 << 10 // bytes of an answer before its results: the verifier has 400 at most
	sendPiece    = 256 << 10
	queue        = 64
	// patience is in how many time-outs a call has to be answered while the server
	// answers others.
	patience = 20
)

// ErrLost is the kind of errors of connections: whether a call was executed is unknown.
var ErrLost = errors.New("the connection was lost")

// Conn is a connection to a server. It may be used by several goroutines at once.
type Conn struct {
	nc      net.Conn
	limit   time.Duration
	auth    []byte
	sendq   chan *call
	end     chan struct{}
	moved   atomic.Int64 // times that bytes came or went
	pending atomic.Int64

	mu    sync.Mutex
	calls map[uint32]*call
	lost  error
}

type call struct {
	xid     uint32
	head    []byte // record mark, header and arguments
	payload []byte
	most    int // bytes of results
	done    chan struct{}
	reply   []byte
	err     error

	taken atomic.Bool   // by send, or by Do: send leaves it then
	sent  chan struct{} // closed when send is done with the payload
}

// withdraw makes sure that nothing of the call is sent from now on.
func (w *call) withdraw() {
	if !w.taken.CompareAndSwap(false, true) {
		<-w.sent
	}
}

// Auth is AUTH_SYS (RFC 5531, appendix A): who the caller says to be.
type Auth struct {
	Machine  string
	UID, GID uint32
	Groups   []uint32 // at most 16 count
}

const (
	authNone  = 0
	authSys   = 1
	maxGroups = 16
)

func (a *Auth) encode() []byte {
	var e, cred Encoder
	cred.Uint32(0) // stamp
	cred.String(a.Machine)
	cred.Uint32(a.UID)
	cred.Uint32(a.GID)
	groups := a.Groups[:min(len(a.Groups), maxGroups)]
	cred.Uint32(uint32(len(groups)))
	for _, g := range groups {
		cred.Uint32(g)
	}
	e.Uint32(authSys)
	e.Opaque(cred.B)
	e.Uint32(authNone) // the verifier
	e.Uint32(0)
	return e.B
}

// NewConn makes a connection of a stream, which it owns. While calls are under way and
// nothing moves for the limit, the connection is given up.
func NewConn(nc net.Conn, auth *Auth, limit time.Duration) *Conn {
	c := &Conn{nc: nc, limit: limit, auth: auth.encode(), sendq: make(chan *call, queue), end: make(chan struct{}), calls: map[uint32]*call{}}
	go c.send()
	go c.receive()
	return c
}

// NewXID returns an identifier for a call.
func NewXID() uint32 { return rand.Uint32() }

// Close ends the connection, and all calls with ErrLost.
func (c *Conn) Close() { c.fail(errClosed) }

var errClosed = errors.New("it is closed")

// Lost says whether the connection has ended.
func (c *Conn) Lost() bool {
	select {
	case <-c.end:
		return true
	default:
		return false
	}
}

// Busy is how many calls are under way.
func (c *Conn) Busy() int { return int(c.pending.Load()) }

func (c *Conn) fail(reason error) {
	c.mu.Lock()
	if c.lost != nil {
		c.mu.Unlock()
		return
	}
	c.lost = message.Errorf(ErrLost, "the connection to the server was lost: %w", reason)
	close(c.end)
	calls := c.calls
	c.calls = nil
	c.mu.Unlock()
	_ = c.nc.Close()
	for _, k := range calls {
		k.err = c.lost
		close(k.done)
	}
}

// Call is one call.
type Call struct {
	XID                         uint32 // the same when a call is sent again
	Program, Version, Procedure uint32
	Args                        []byte
	Payload                     []byte // the end of the arguments; with padding. If Do returns with the context's error it may still be sent, and must not change
	MaxReply                    int    // bytes of results
}

// Do sends a call and waits for its results.
func (c *Conn) Do(ctx context.Context, k *Call) (*Decoder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	w := &call{xid: k.XID, payload: k.Payload, most: k.MaxReply, done: make(chan struct{}), sent: make(chan struct{})}
	e := Encoder{B: make([]byte, 0, 44+len(c.auth)+len(k.Args))}
	e.Uint32(0) // the record mark, below
	e.Uint32(k.XID)
	e.Uint32(0) // CALL
	e.Uint32(2) // RPC version
	e.Uint32(k.Program)
	e.Uint32(k.Version)
	e.Uint32(k.Procedure)
	e.Fixed(c.auth)
	e.Fixed(k.Args)
	binary.BigEndian.PutUint32(e.B, lastFragment|uint32(len(e.B)-4+len(k.Payload)))
	w.head = e.B
	c.mu.Lock()
	if c.lost != nil {
		c.mu.Unlock()
		return nil, c.lost
	}
	if c.calls[k.XID] != nil {
		c.mu.Unlock()
		return nil, fmt.Errorf("call %#x is under way already", k.XID)
	}
	c.calls[k.XID] = w
	c.mu.Unlock()
	c.pending.Add(1)
	defer c.pending.Add(-1)
	select {
	case c.sendq <- w:
	case <-w.done:
	case <-ctx.Done():
		c.mu.Lock()
		delete(c.calls, k.XID) // it was never sent
		c.mu.Unlock()
		return nil, ctx.Err()
	}
	if err := c.wait(ctx, w); err != nil {
		return nil, err
	}
	// The answer is here, or the connection is closed: sending ends at once, or by its limit.
	w.withdraw()
	if w.err != nil {
		return nil, w.err
	}
	return accepted(w.reply)
}

// wait waits for the end of a call. Its error is the context's.
func (c *Conn) wait(ctx context.Context, w *call) error {
	timer := time.NewTimer(c.limit)
	defer timer.Stop()
	moved := c.moved.Load()
	for round := 1; ; round++ {
		select {
		case <-w.done:
			return nil
		case <-ctx.Done():
			return ctx.Err() // the answer is dropped when it comes
		case <-timer.C:
		}
		now := c.moved.Load()
		if now == moved || round == patience {
			c.fail(message.Errorf(syscall.ETIMEDOUT, "the server does not answer"))
			<-w.done
			return nil
		}
		moved = now
		timer.Reset(c.limit)
	}
}

// send writes calls.
func (c *Conn) send() {
	for {
		var w *call
		select {
		case w = <-c.sendq:
		case <-c.end:
			return
		}
		if !w.taken.CompareAndSwap(false, true) {
			continue
		}
		err := c.write(w)
		close(w.sent)
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// write writes a call.
func (c *Conn) write(w *call) error {
	for _, b := range [][]byte{w.head, w.payload} {
		for len(b) > 0 {
			piece := b[:min(len(b), sendPiece)]
			b = b[len(piece):]
			_ = c.nc.SetWriteDeadline(time.Now().Add(c.limit))
			if _, err := c.nc.Write(piece); err != nil {
				return err
			}
			c.moved.Add(1)
		}
	}
	return nil
}

// receive reads answers.
func (c *Conn) receive() {
	for {
		if err := c.answer(); err != nil {
			if err == io.EOF {
				err = message.Errorf(io.EOF, "the server closed it")
			}
			c.fail(err)
			return
		}
	}
}

// record reads the fragments of one record.
type record struct {
	c     *Conn
	left  int // bytes of the fragment
	last  bool
	count int
}

func (r *record) read(b []byte) error {
	for len(b) > 0 {
		if r.left == 0 {
			if err := r.next(); err != nil {
				return err
			}
			continue
		}
		n, err := r.c.nc.Read(b[:min(len(b), r.left)])
		if n > 0 {
			r.c.moved.Add(1)
		}
		r.left -= n
		b = b[n:]
		if err != nil && len(b) > 0 {
			return err
		}
	}
	return nil
}

var errShort = message.Errorf(ErrMalformed, "an answer of the server is too short")

// next begins the next fragment.
func (r *record) next() error {
	if r.last {
		return errShort
	}
	if r.count++; r.count > maxFragments {
		return message.Errorf(ErrMalformed, "an answer of the server has more than %d fragments", maxFragments)
	}
	var mark [4]byte
	if _, err := io.ReadFull(r.c.nc, mark[:]); err != nil {
		return err
	}
	r.c.moved.Add(1)
	v := binary.BigEndian.Uint32(mark[:])
	r.last, r.left = v&lastFragment != 0, int(v&^lastFragment)
	return nil
}

// answer reads one answer and gives it to its call.
func (c *Conn) answer() error {
	r := &record{c: c}
	var id [4]byte
	if err := r.read(id[:]); err != nil {
		return err
	}
	xid := binary.BigEndian.Uint32(id[:])
	c.mu.Lock()
	w := c.calls[xid]
	c.mu.Unlock()
	if w == nil {
		return message.Errorf(ErrMalformed, "the server answers a call that was never made")
	}
	var reply []byte
	for !r.last || r.left > 0 {
		if r.left == 0 {
			if err := r.next(); err != nil {
				return err
			}
			continue
		}
		at := len(reply)
		if r.left > w.most+maxHeader-at {
			return message.Errorf(ErrMalformed, "an answer of the server is longer than %d bytes", w.most)
		}
		reply = extend(reply, r.left)
		if err := r.read(reply[at:]); err != nil {
			return err
		}
	}
	c.mu.Lock()
	_, known := c.calls[xid]
	delete(c.calls, xid)
	c.mu.Unlock()
	if known {
		w.reply = reply
		close(w.done)
	}
	return nil
}

// largeReply is from how many bytes on the room of an answer is used again.
const largeReply = 64 << 10

var largeReplies sync.Pool // of *[]byte

// extend makes room for n bytes more of an answer.
func extend(reply []byte, n int) []byte {
	at := len(reply)
	if at == 0 && n >= largeReply {
		if b, _ := largeReplies.Get().(*[]byte); b != nil && cap(*b) >= n {
			return (*b)[:n]
		}
	}
	return append(reply, make([]byte, n)...)
}

// Release gives the room of an answer back. What Fixed and Opaque have returned must not be
// used any more.
func (d *Decoder) Release() {
	if b := d.whole; cap(b) >= largeReply {
		largeReplies.Put(&b)
	}
	d.whole, d.b = nil, nil
}

// Names of what a server answers instead of results (RFC 5531, section 9).
var (
	acceptStates = map[uint32]string{1: "PROG_UNAVAIL", 2: "PROG_MISMATCH", 3: "PROC_UNAVAIL", 4: "GARBAGE_ARGS", 5: "SYSTEM_ERR"}
	authStates   = map[uint32]string{1: "AUTH_BADCRED", 2: "AUTH_REJECTEDCRED", 3: "AUTH_BADVERF", 4: "AUTH_REJECTEDVERF", 5: "AUTH_TOOWEAK", 6: "AUTH_INVALIDRESP", 7: "AUTH_FAILED"}
)

// RefusedError says that a server did not execute a call.
type RefusedError struct {
	Why string // PROG_UNAVAIL, AUTH_TOOWEAK …
}

func (e *RefusedError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *RefusedError) Template() (string, []any) {
	return "the server refuses the call: %s", []any{e.Why}
}

func refused(names map[uint32]string, v uint32) error {
	name, ok := names[v]
	if !ok {
		name = fmt.Sprint(v)
	}
	return &RefusedError{name}
}

// accepted takes the header of an answer, after its xid (RFC 5531, section 9).
func accepted(b []byte) (*Decoder, error) {
	d := NewDecoder(b)
	reply, denied := d.Uint32(), d.Uint32()
	switch {
	case d.Err() != nil || reply != 1 || denied > 1:
		return nil, ErrMalformed
	case denied == 1:
		if d.Uint32() == 1 { // AUTH_ERROR
			return nil, refused(authStates, d.Uint32())
		}
		return nil, &RefusedError{"RPC_MISMATCH"}
	}
	d.Uint32() // the verifier
	d.Opaque(400)
	state := d.Uint32()
	if d.Err() != nil {
		return nil, d.Err()
	}
	if state != 0 {
		return nil, refused(acceptStates, state)
	}
	d.whole = b
	return d, nil
}
