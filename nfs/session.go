package nfs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

// Operations and flags (RFC 8881, section 16.2.3; RFC 7862, section 15).
const (
	opAccess           = 3
	opClose            = 4
	opCommit           = 5
	opGetattr          = 9
	opGetfh            = 10
	opLookup           = 15
	opOpen             = 18
	opPutfh            = 22
	opPutrootfh        = 24
	opRead             = 25
	opRemove           = 28
	opSetattr          = 34
	opWrite            = 38
	opExchangeID       = 42
	opCreateSession    = 43
	opDestroySession   = 44
	opSequence         = 53
	opDestroyClientID  = 57
	opReclaimComplete  = 58
	opDeallocate       = 62
	opSeek             = 69
	procCompound       = 1
	noPNFS             = 0x00010000 // EXCHGID4_FLAG_USE_NON_PNFS
	confirmed          = 0x80000000 // EXCHGID4_FLAG_CONFIRMED_R
	maxOps             = 16
	maxSlots           = 64
	sessionHeader      = 4096 // bytes of a call or an answer around its data
	sessionHeaderSmall = 4096 // the longest answer that a server has to remember
	farewell           = 500 * time.Millisecond
)

// session is what a server keeps of this client (RFC 8881, section 2.10).
type session struct {
	clientID uint64
	id       [16]byte
	slots    chan *slot
	broken   chan struct{} // closed when a slot is lost
	once     sync.Once
}

// lose gives the session up: nobody knows what the server has seen of a slot.
func (s *session) lose() { s.once.Do(func() { close(s.broken) }) }

// slot orders calls, and makes one that is sent again recognisable.
type slot struct {
	number, sequence uint32
}

// version4 is NFS version 4.1 or 4.2.
type version4 struct {
	cfg        *Config
	t          *transport
	minor      uint32
	root       []byte
	rmax, wmax int
	lease      time.Duration
	owner      []byte
	boot       []byte          // the verifier of this instance of the client
	ctx        context.Context // of calls that nobody waits for any more, and of the renewal of the lease
	cancel     context.CancelFunc
	running    sync.WaitGroup
	sequence   uint32        // of the next session; under recovery
	recovery   chan struct{} // has the token of the goroutine that makes a session

	mu    sync.Mutex
	s     *session
	files map[*handle]bool
	used  time.Time // last answer with a session
}

// isStatus says whether an error is an answer with one of some statuses.
func isStatus(err error, list ...Status) bool {
	var s *StatusError
	if !errors.As(err, &s) {
		return false
	}
	for _, v := range list {
		if s.Status == v {
			return true
		}
	}
	return false
}

// compound is a number of operations for one call.
type compound struct {
	args    oncrpc.Encoder
	count   uint32
	payload []byte // the end of the arguments: only the last operation has one
	most    int
	results []func(d *oncrpc.Decoder) // one for each operation
	ops     []uint32
}

// op adds an operation. results takes what follows its status if that is success.
func (c *compound) op(number uint32, results func(d *oncrpc.Decoder)) *oncrpc.Encoder {
	c.count++
	c.args.Uint32(number)
	c.ops = append(c.ops, number)
	c.results = append(c.results, results)
	return &c.args
}

// results takes what precedes the results of the operations (RFC 8881, section 16.2.4).
func results(d *oncrpc.Decoder) (status Status, n uint32) {
	status = Status(d.Uint32())
	d.Opaque(maxReply) // the tag
	return status, d.Uint32()
}

// result takes what precedes the results of one operation.
func result(d *oncrpc.Decoder, op uint32) (Status, error) {
	got, s := d.Uint32(), Status(d.Uint32())
	if d.Err() == nil && got != op {
		d.Fail()
	}
	return s, d.Err()
}

// decode takes the results of n operations.
func (c *compound) decode(d *oncrpc.Decoder, status Status, n uint32) error {
	if d.Err() == nil && (n > c.count || status == ok && n != c.count) {
		d.Fail()
	}
	for i := range min(n, c.count) {
		s, err := result(d, c.ops[i])
		if err != nil {
			return err
		}
		if s != ok {
			return check(4, s)
		}
		if f := c.results[i]; f != nil {
			f(d)
		}
	}
	if d.Err() == nil && status != ok {
		return check(4, status)
	}
	return d.Err()
}

// send makes a call of a compound, whose first operations head encodes, without a session.
func (v *version4) send(ctx context.Context, c *compound, head []byte, heads uint32) (*oncrpc.Decoder, error) {
	var e oncrpc.Encoder
	e.String("")
	e.Uint32(v.minor)
	e.Uint32(c.count + heads)
	e.Fixed(head)
	e.Fixed(c.args.B)
	d, _, err := v.t.do(ctx, &oncrpc.Call{XID: oncrpc.NewXID(), Program: nfsProgram, Version: 4, Procedure: procCompound, Args: e.B, Payload: c.payload, MaxReply: c.most + maxReply})
	return d, err
}

// plain makes a call outside of sessions.
func (v *version4) plain(ctx context.Context, c *compound) error {
	return patient(ctx, v.cfg, func() error {
		d, err := v.send(ctx, c, nil, 0)
		if err != nil {
			return err
		}
		status, n := results(d)
		return c.decode(d, status, n)
	})
}

// lost says whether the session is gone.
func lost(err error) bool {
	return isStatus(err, errBadSession, errDeadSession, errBadSlot, errNotBound, errSeqMisordered, errStaleClientID, errExpired, errUncachedReply)
}

// do makes a call in the session, with a new session where the server has lost it. build
// makes the operations: it is called again after a recovery, since stateids are new then.
func (v *version4) do(ctx context.Context, build func(c *compound)) error {
	tries := 0
	return patient(ctx, v.cfg, func() error {
		for {
			v.mu.Lock()
			s := v.s
			v.mu.Unlock()
			err := v.in(ctx, s, build)
			if !lost(err) && !staleState(err) {
				return err
			}
			if tries++; tries > restarts {
				return message.Errorf(nil, "the server loses its state again and again: %w", err)
			}
			wait := firstWait
			if err := errors.Join(v.recover(ctx, s), pause(ctx, &wait)); err != nil {
				return err
			}
		}
	})
}

// staleState says whether the state of an open file is gone.
func staleState(err error) bool {
	return isStatus(err, errStaleStateID, errBadStateID, errOldStateID, errAdminRevoked)
}

// answer is the end of a call.
type answer struct {
	d      *oncrpc.Decoder
	status Status
	left   uint32 // results after that of SEQUENCE
	err    error
}

// in makes a call in a session. A call that nobody waits for any more is brought to its end
// all the same: its slot is of no use before.
func (v *version4) in(ctx context.Context, s *session, build func(c *compound)) error {
	var sl *slot
	select {
	case sl = <-s.slots:
	case <-s.broken:
		return check(4, errBadSession)
	case <-ctx.Done():
		return ctx.Err()
	}
	c := &compound{}
	var e oncrpc.Encoder
	e.Uint32(opSequence)
	e.Fixed(s.id[:])
	e.Uint32(sl.sequence)
	e.Uint32(sl.number)
	e.Uint32(uint32(cap(s.slots) - 1))
	build(c)
	e.Bool(c.most == 0) // short answers are remembered for calls that are sent again
	done := make(chan answer, 1)
	v.running.Go(func() {
		done <- v.sequenced(s, sl, c, e.B)
	})
	select {
	case a := <-done:
		if a.err != nil {
			return a.err
		}
		return c.decode(a.d, a.status, a.left)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sequenced makes a call with a slot, and takes the result of SEQUENCE, which head encodes.
func (v *version4) sequenced(s *session, sl *slot, c *compound, head []byte) answer {
	d, err := v.send(v.ctx, c, head, 1)
	if err != nil {
		s.lose()
		return answer{err: err}
	}
	status, n := results(d)
	first, err := result(d, opSequence)
	if err != nil || n == 0 {
		s.lose()
		return answer{err: oncrpc.ErrMalformed}
	}
	if first == ok { // else the server has not counted the call
		d.Fixed(len(s.id) + 5*4)
		sl.sequence++
		v.mu.Lock()
		v.used = time.Now()
		v.mu.Unlock()
	}
	s.slots <- sl
	return answer{d, status, n - 1, check(4, first)}
}

// mount4 makes a session, of the newest minor version that both know, and looks the
// directory up.
func mount4(ctx context.Context, cfg *Config, directory string) (_ protocol, err error) {
	port := cfg.NFSPort
	if port == 0 {
		port = defaultPort
	}
	v := &version4{cfg: cfg, t: newTransport(cfg, cfg.dialer(port)), minor: 2, recovery: make(chan struct{}, 1), files: map[*handle]bool{}, lease: time.Minute}
	v.ctx, v.cancel = context.WithCancel(context.Background())
	defer func() {
		if err != nil {
			v.close(ctx)
		}
	}()
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	random := make([]byte, 16)
	_, _ = rand.Read(random)
	v.owner, v.boot = fmt.Appendf(nil, "cowl %s %x", host, random[:8]), random[8:]
	if cfg.Version == Version41 {
		v.minor = 1
	}
	if _, err = v.t.conn(ctx, false); err != nil { // only later is a server waited for
		return nil, err
	}
	err = v.establish(ctx)
	if isStatus(err, errMinorVersion) && cfg.Version != Version41 && cfg.Version != Version42 {
		v.minor = 1
		err = v.establish(ctx)
	}
	var refused *oncrpc.RefusedError
	if errors.As(err, &refused) || isStatus(err, errMinorVersion) {
		err = message.Errorf(nil, "%w: %w", &UnavailableError{"NFS in version " + v.version()}, err)
	}
	if err != nil {
		return nil, err
	}
	if err = v.lookupRoot(ctx, directory); err != nil {
		return nil, message.Errorf(nil, "looking '%s' up: %w", directory, err)
	}
	v.running.Go(v.renew)
	return v, nil
}

// establish makes a client ID and a session (RFC 8881, sections 18.35 and 18.36).
func (v *version4) establish(ctx context.Context) error {
	s, c := &session{broken: make(chan struct{})}, &compound{}
	var sequence, flags uint32
	e := c.op(opExchangeID, func(d *oncrpc.Decoder) {
		s.clientID, sequence = d.Uint64(), d.Uint32()
		flags = d.Uint32()
		if d.Uint32() != 0 {
			d.Fail() // protection of state that was not asked for
		}
		d.Uint64()
		d.Opaque(1024)
		d.Opaque(1024)
		for range min(d.Uint32(), 1) {
			d.Opaque(1024)
			d.Opaque(1024)
			d.Fixed(12)
		}
	})
	e.Fixed(v.boot)
	e.Opaque(v.owner)
	e.Uint32(noPNFS)
	e.Uint32(0) // SP4_NONE
	e.Uint32(0) // nothing about the implementation
	if err := v.plain(ctx, c); err != nil {
		return err
	}
	if flags&confirmed != 0 { // the client ID is that of an earlier session, and so is the count
		sequence = v.sequence
	}
	v.sequence = sequence + 1
	c = &compound{}
	var request, response, slots uint32
	e = c.op(opCreateSession, func(d *oncrpc.Decoder) {
		copy(s.id[:], d.Fixed(len(s.id)))
		d.Fixed(8) // sequence, flags
		d.Uint32()
		request, response = d.Uint32(), d.Uint32()
		d.Fixed(8)
		slots = d.Uint32()
		d.Fixed(4 * int(min(d.Uint32(), 1)))
		d.Fixed(6 * 4)
		d.Fixed(4 * int(min(d.Uint32(), 1)))
	})
	e.Uint64(s.clientID)
	e.Uint32(sequence)
	e.Uint32(0) // flags
	channel(e, maxTransfer+sessionHeader, maxSlots)
	channel(e, sessionHeader, 1)
	e.Uint32(0x40000000) // the program of callbacks, which there are none of
	e.Uint32(1)
	e.Uint32(0) // AUTH_NONE
	if err := v.plain(ctx, c); err != nil {
		return err
	}
	if request < 2*sessionHeader || response < 2*sessionHeader || slots == 0 {
		return message.Errorf(nil, "the server grants a session with %d calls of %d bytes and answers of %d", slots, request, response)
	}
	v.rmax, v.wmax = transfer(uint64(response-sessionHeader)), transfer(uint64(request-sessionHeader))
	n := min(slots, maxSlots)
	s.slots = make(chan *slot, n)
	for i := range n {
		s.slots <- &slot{i, 1}
	}
	v.mu.Lock()
	v.s, v.used = s, time.Now()
	v.mu.Unlock()
	return nil
}

// channel encodes channel_attrs4.
func channel(e *oncrpc.Encoder, size, slots uint32) {
	e.Uint32(0)
	e.Uint32(size)
	e.Uint32(size)
	e.Uint32(sessionHeaderSmall)
	e.Uint32(maxOps)
	e.Uint32(slots)
	e.Uint32(0)
}

// recover makes another session in the place of old, and opens files again, as a server
// that was restarted lets its clients do for a while (RFC 8881, section 8.4.2).
func (v *version4) recover(ctx context.Context, old *session) error {
	if err := take(ctx, v.recovery, 1); err != nil {
		return err
	}
	defer give(v.recovery, 1)
	v.mu.Lock()
	s := v.s
	v.mu.Unlock()
	if s != old {
		return nil
	}
	v.cfg.Log(1, "the server has lost the session: another one is made")
	if err := v.establish(ctx); err != nil {
		return message.Errorf(nil, "making a session with the server again: %w", err)
	}
	v.mu.Lock()
	s = v.s
	files := make([]*handle, 0, len(v.files))
	for h := range v.files {
		files = append(files, h)
	}
	v.mu.Unlock()
	for _, h := range files {
		if err := v.reopen(ctx, s, h); err != nil && ctx.Err() != nil {
			return err
		}
	}
	return v.reclaimed(ctx, s)
}

// reclaimed says that all files are open again, which is due before the first is opened, too
// (RFC 8881, section 18.51).
func (v *version4) reclaimed(ctx context.Context, s *session) error {
	err := v.in(ctx, s, func(c *compound) {
		c.op(opReclaimComplete, nil).Bool(false)
	})
	if isStatus(err, errCompleteAlready) || lost(err) { // lost again: the next call finds out
		return nil
	}
	return err
}

// renew keeps the lease while nothing else does (RFC 8881, section 8.3).
func (v *version4) renew() {
	for {
		wait := v.lease / 3
		if pause(v.ctx, &wait) != nil {
			return
		}
		v.mu.Lock()
		idle := time.Since(v.used) > v.lease/4
		v.mu.Unlock()
		if idle {
			_ = v.do(v.ctx, func(*compound) {}) // errors are those of the next call
		}
	}
}

// close gives the session and the client ID back, if the server answers soon.
func (v *version4) close(ctx context.Context) {
	v.mu.Lock()
	s := v.s
	v.mu.Unlock()
	if s != nil && ctx.Err() == nil {
		ctx, cancel := context.WithTimeout(ctx, farewell)
		c := &compound{}
		c.op(opDestroySession, nil).Fixed(s.id[:])
		if _, err := v.send(ctx, c, nil, 0); err == nil {
			c = &compound{}
			c.op(opDestroyClientID, nil).Uint64(s.clientID)
			_, _ = v.send(ctx, c, nil, 0)
		}
		cancel()
	}
	v.cancel()
	v.t.close()
	v.running.Wait()
}
