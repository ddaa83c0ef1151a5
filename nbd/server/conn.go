package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// mode is the kind of replies that a client has agreed to.
type mode uint8

const (
	modeSimple mode = iota
	modeStructured
	modeExtended
)

const (
	readBuffer   = 256 << 10 // for requests and small payloads
	firstBuffer  = 16 << 10  // what it is before a client has sent as much
	replyBuffer  = 256 << 10 // for replies of the leader
	inPlace      = 64 << 10  // the largest payload that is used within these buffers
	piece        = 512 << 10 // the largest buffer for a part of a request
	socketBuffer = 512 << 10 // asked of the system for the answers to one client, on Unix sockets
	maxInFlight  = 2 << 20   // bytes of the buffers that workers hold, of one connection
	allInFlight  = 24 << 20  // same, of all connections; each may hold a piece, however many there are
	sharedRoom   = 16 << 20  // bytes of larger buffers, of all connections
	requestQueue = 64        // requests that wait for a worker
)

// conn is one client.
type conn struct {
	srv    *Server
	raw    net.Conn // the socket
	nc     net.Conn // raw, or TLS on it
	tls    *tls.ConnectionState
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // closed at the end

	// What was negotiated.
	export *Export // set with Server.mu held
	mode   mode
	meta   []metaContext

	// Constant in the transmission phase.
	dev      Device
	writer   Writer          // nil: read-only
	reporter StatusReporter  // nil: it is not known where zeroes are
	ranger   FileRanger      // nil: nothing is sent from files
	socket   syscall.RawConn // of raw, for ranger
	size     uint64
	limits   wire.BlockSize
	asked    bool // the client knows the limits

	in  requestReader
	own replies // of the leader

	pace   pace
	noFile atomic.Bool // sending from the file has not worked
	inline inline
	wg     sync.WaitGroup // workers, and leaders but the first

	mu           sync.Mutex
	cond         sync.Cond
	stopped      bool
	transmitting bool
	queue        []*job    // for workers
	more         sync.Cond // the queue has grown, or has ended
	ended        bool      // no more jobs will come
	workers      int
	idle         int        // workers that wait for more
	inFlight     int        // bytes of buffers of jobs
	gathered     [2]replies // of workers: one is filled while the other is sent
	filling      int        // which one is filled
	writing      bool       // a goroutine is writing to nc
	broken       error      // writing has failed
}

// run serves the client from beginning to end and closes the connection.
func (c *conn) run() error {
	defer c.cancel()
	defer c.raw.Close()
	stop := context.AfterFunc(c.ctx, func() { c.raw.Close() })
	defer stop()
	log := c.srv.cfg.Log.With("client", c.raw.RemoteAddr())
	trace.NBDNegotiateBegin.Log()
	rest, err := c.negotiate()
	if err != nil {
		if errors.Is(err, errDone) {
			err = nil
		} else {
			log.Info("negotiation failed", "err", err)
		}
		c.closeTLS()
		return err
	}
	log.Debug("client connected", "export", c.export.Name)
	trace.NBDNegotiateSuccess.LogText(c.export.Name)
	err = c.transmit(rest)
	log.Debug("client gone", "export", c.export.Name, "err", err)
	c.closeTLS()
	return err
}

// closeTLS tells the peer that nothing is missing.
func (c *conn) closeTLS() {
	if tc, ok := c.nc.(*tls.Conn); ok {
		tc.SetWriteDeadline(time.Now().Add(time.Second))
		tc.CloseWrite()
	}
}

// errDisc is the orderly end that the client asks for.
var errDisc = errors.New("client disconnects")

// transmit reads requests until the client goes or must go.
func (c *conn) transmit(rest []byte) error {
	c.dev, c.writer = c.export.Device, c.export.writer()
	c.size, c.limits = uint64(c.dev.Size()), c.export.blockSize(c.asked)
	if u, ok := c.raw.(*net.UnixConn); ok && c.srv.Clients() <= allInFlight/socketBuffer {
		// The system's own size holds less than one large answer, and has server and
		// client wait for each other all the time. Many clients have to share.
		_ = u.SetWriteBuffer(socketBuffer)
	}
	if r, ok := c.dev.(FileRanger); ok && c.tls == nil {
		if c.socket = fileSocket(c.raw); c.socket != nil {
			c.ranger = r
		}
	}
	if r, ok := c.dev.(StatusReporter); ok && slices.Contains(r.Contexts(), wire.ContextAllocation) {
		c.reporter = r
	}
	c.in = requestReader{r: c.nc, buf: bufpool.Get(max(firstBuffer, len(rest)))}
	c.in.end = copy(c.in.buf, rest)
	c.pace.init()
	c.inline.ended = make(chan error, 1)
	err := c.lead()
	if errors.Is(err, errDeposed) {
		err = <-c.inline.ended
	}
	if orderly(err) {
		c.flushOwn()
	} else {
		// Nobody waits for answers any more, and workers must not wait for a socket
		// that takes nothing.
		c.cut()
	}
	c.mu.Lock()
	c.ended = true
	c.more.Broadcast()
	c.mu.Unlock()
	c.wg.Wait()
	bufpool.Put(c.in.buf)
	c.own.free()
	if orderly(err) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// lead reads and executes requests, or hands them on.
func (c *conn) lead() error {
	headLen := wire.RequestLen
	if c.mode == modeExtended {
		headLen = wire.ExtendedRequestLen
	}
	var req wire.Request
	for {
		if c.in.buffered() < headLen {
			if err := c.flushOwn(); err != nil {
				return err
			}
			if err := c.in.fill(headLen); err != nil {
				return err
			}
		}
		if !req.Parse(c.in.take(headLen), c.mode == modeExtended) {
			return violation("bad request magic")
		}
		if err := c.request(&req); err != nil {
			return err
		}
	}
}

// requestReader reads ahead from the socket.
type requestReader struct {
	r          io.Reader
	buf        []byte
	start, end int
}

func (r *requestReader) buffered() int { return r.end - r.start }

// fill reads until n bytes are buffered, at most readBuffer.
func (r *requestReader) fill(n int) error {
	if len(r.buf) < readBuffer && (n > len(r.buf) || r.end == len(r.buf)) {
		// Most clients that read much send little: only those that do cost memory.
		bigger := bufpool.Get(readBuffer)
		r.start, r.end = 0, copy(bigger, r.buf[r.start:r.end])
		bufpool.Put(r.buf)
		r.buf = bigger
	} else if r.start == r.end {
		r.start, r.end = 0, 0
	} else if r.start+n > len(r.buf) || len(r.buf)-r.end < len(r.buf)/4 {
		r.end = copy(r.buf, r.buf[r.start:r.end])
		r.start = 0
	}
	for r.buffered() < n {
		m, err := r.r.Read(r.buf[r.end:])
		r.end += m
		if err != nil && r.buffered() < n {
			if err == io.EOF && r.buffered() > 0 {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// take returns the next n bytes, which are buffered, valid until fill.
func (r *requestReader) take(n int) []byte {
	b := r.buf[r.start : r.start+n]
	r.start += n
	return b
}

// readFull fills p, from the buffer first.
func (r *requestReader) readFull(p []byte) error {
	n := copy(p, r.buf[r.start:r.end])
	r.start += n
	_, err := io.ReadFull(r.r, p[n:])
	return err
}

// pace tells whether the device answers so fast that handing requests to others
// would cost more than executing them: it keeps a moving average of the time that
// requests take beyond that of moving their bytes.
type pace struct{ average atomic.Int64 }

const (
	paceStart = 60_000 // nanoseconds; a device has to show that it is fast
	paceFast  = 30_000
)

func (p *pace) init()      { p.average.Store(paceStart) }
func (p *pace) fast() bool { return p.average.Load() < paceFast }

// took records a request that moved n bytes.
func (p *pace) took(d time.Duration, n int) {
	ns := min(max(int64(d)-int64(n)/2, 0), int64(time.Second))
	old := p.average.Load()
	// A lost update does not matter.
	p.average.Store(old + (ns-old)/16)
}
