package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Config says how a server treats its clients. The zero value is a server without
// TLS for any number of clients.
type Config struct {
	// TLS, if set, is what STARTTLS begins; RequireTLS refuses everything before.
	TLS        *tls.Config
	RequireTLS bool
	// Authorize, if set, is asked about every client after its TLS handshake, or
	// before it may choose an export where there is no TLS. An error ends the
	// connection.
	Authorize func(ctx context.Context, p Peer) error
	// MaxClients are served at a time; more wait to be accepted. 0: no limit.
	MaxClients int
	// HandshakeTimeout bounds the time until a client has chosen an export.
	// 0: ten seconds; negative: no limit.
	HandshakeTimeout time.Duration
	// Workers execute the requests of one connection to a slow device. 0: 16.
	Workers int
	// ClientGone, if set, is called when a connection has ended: whether the client
	// had chosen an export, and how many connections are left. It must not wait for
	// the server (Shutdown, RemoveExport).
	ClientGone func(negotiated bool, left int)
	// Log may be nil.
	Log *slog.Logger
}

// Peer is a client that connects.
type Peer struct {
	Addr net.Addr
	TLS  *tls.ConnectionState // nil without TLS
}

// ErrClosed is returned by Serve after Shutdown.
var ErrClosed = errors.New("the NBD server is closed")

// Server serves exports. Its methods may be called from several goroutines.
type Server struct {
	cfg   Config
	slots chan struct{} // nil: no limit

	mu        sync.Mutex
	exports   map[string]*Export
	conns     map[*conn]struct{}
	listeners map[net.Listener]struct{}
	draining  bool
	active    sync.WaitGroup // connections

	watching atomic.Bool  // watch runs
	shared   atomic.Int64 // bytes of large contiguous replies, of all connections
	inFlight atomic.Int64 // bytes that the buffers of a connection's workers may have
}

// New returns a server without exports.
func New(cfg Config) *Server {
	s := &Server{cfg: cfg, exports: map[string]*Export{}, conns: map[*conn]struct{}{}, listeners: map[net.Listener]struct{}{}}
	if cfg.MaxClients > 0 {
		s.slots = make(chan struct{}, cfg.MaxClients)
	}
	if s.cfg.HandshakeTimeout == 0 {
		s.cfg.HandshakeTimeout = 10 * time.Second
	}
	if s.cfg.Workers <= 0 {
		s.cfg.Workers = 16
	}
	if s.cfg.Log == nil {
		s.cfg.Log = slog.New(slog.DiscardHandler)
	}
	return s
}

// AddExport adds an export, which the caller does not change any more. The device
// stays the caller's: it is closed, if it needs that, after Shutdown or
// RemoveExport.
func (s *Server) AddExport(e *Export) error {
	for _, text := range []string{e.Name, e.Description} {
		if err := wire.CheckString(text); err != nil {
			return err
		}
	}
	if e.Device == nil || e.Device.Size() < 0 {
		return fmt.Errorf("export '%s' has no device", e.Name)
	}
	if err := e.blockSize(true).Check(); err != nil {
		return fmt.Errorf("export '%s': %w", e.Name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.exports[e.Name]; ok {
		return fmt.Errorf("NBD server already has export named '%s'", e.Name)
	}
	s.exports[e.Name] = e
	return nil
}

// RemoveExport takes an export away: no client can choose it any more, and those
// that use it are disconnected after their requests under way are answered. When
// ctx ends they are cut off. It returns when none of them is left.
func (s *Server) RemoveExport(ctx context.Context, name string) error {
	s.mu.Lock()
	e, ok := s.exports[name]
	if !ok {
		s.mu.Unlock()
		return message.Errorf(nil, "export '%s' is not found", name)
	}
	delete(s.exports, name)
	var using []*conn
	for c := range s.conns {
		if c.export == e {
			using = append(using, c)
			c.stopReading()
		}
	}
	s.mu.Unlock()
	var err error
	for _, c := range using {
		select {
		case <-c.done:
		case <-ctx.Done():
			c.cut()
			<-c.done
			err = ctx.Err()
		}
	}
	return err
}

// names returns the names of the exports, sorted.
func (s *Server) names() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := make([]string, 0, len(s.exports))
	for n := range s.exports {
		names = append(names, n)
	}
	sort.Strings(names)
	return names
}

func (s *Server) find(name string) *Export {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.exports[name]
}

// Serve accepts clients from l until ctx ends, Shutdown is called, or l fails. It
// closes l. Connections go on after the return, until Shutdown or their end; ctx
// ends them, too.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	s.mu.Lock()
	if s.draining {
		s.mu.Unlock()
		return ErrClosed
	}
	s.listeners[l] = struct{}{}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.listeners, l)
		s.mu.Unlock()
	}()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for delay := time.Duration(0); ; {
		if s.slots != nil {
			select {
			case s.slots <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		nc, err := l.Accept()
		if err != nil {
			if s.slots != nil {
				<-s.slots
			}
			s.mu.Lock()
			draining := s.draining
			s.mu.Unlock()
			if draining {
				return ErrClosed
			}
			if ctx.Err() != nil {
				return ctx.Err()
			}
			// Out of descriptors, or the client closed the connection before it was accepted.
			if te, ok := err.(interface{ Temporary() bool }); ok && te.Temporary() {
				delay = min(max(2*delay, 5*time.Millisecond), time.Second)
				s.cfg.Log.Warn("accept failed", "err", err)
				select {
				case <-time.After(delay):
					continue
				case <-ctx.Done():
					return ctx.Err()
				}
			}
			return err
		}
		delay = 0
		c := s.newConn(ctx, nc)
		if c == nil {
			nc.Close()
			if s.slots != nil {
				<-s.slots
			}
			return ErrClosed
		}
		go func() {
			c.run()
			// A waiting client is served after this one is gone.
			s.remove(c)
			if s.slots != nil {
				<-s.slots
			}
		}()
	}
}

// ServeConn serves one client on nc until it goes, and closes nc.
func (s *Server) ServeConn(ctx context.Context, nc net.Conn) error {
	c := s.newConn(ctx, nc)
	if c == nil {
		nc.Close()
		return ErrClosed
	}
	err := c.run()
	s.remove(c)
	return err
}

// newConn registers a connection; nil if the server is closed.
func (s *Server) newConn(ctx context.Context, nc net.Conn) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return nil
	}
	c := &conn{srv: s, raw: nc, nc: nc, done: make(chan struct{})}
	c.cond.L, c.more.L = &c.mu, &c.mu
	c.ctx, c.cancel = context.WithCancel(ctx)
	s.conns[c] = struct{}{}
	s.share()
	s.active.Add(1)
	return c
}

// share divides the memory for buffers among the connections. s.mu is held.
func (s *Server) share() {
	s.inFlight.Store(int64(max(piece, min(maxInFlight, allInFlight/max(len(s.conns), 1)))))
}

func (s *Server) remove(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.share()
	left := len(s.conns)
	negotiated := c.export != nil
	s.mu.Unlock()
	close(c.done)
	if s.cfg.ClientGone != nil {
		s.cfg.ClientGone(negotiated, left)
	}
	s.active.Done()
}

// Clients returns how many connections there are.
func (s *Server) Clients() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Shutdown ends the server: it stops accepting clients and reading requests, lets
// those under way be answered, disconnects all clients and flushes all devices.
// When ctx ends, clients are cut off; their requests under way are cancelled, and
// waited for, and the devices flushed all the same.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	for l := range s.listeners {
		l.Close()
	}
	for c := range s.conns {
		c.stopReading()
	}
	s.mu.Unlock()
	idle := make(chan struct{})
	go func() {
		s.active.Wait()
		close(idle)
	}()
	var err error
	select {
	case <-idle:
	case <-ctx.Done():
		err = ctx.Err()
		s.mu.Lock()
		for c := range s.conns {
			c.cut()
		}
		s.mu.Unlock()
		<-idle
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.exports {
		if w := e.writer(); w != nil {
			if ferr := w.Flush(context.WithoutCancel(ctx)); ferr != nil {
				err = errors.Join(err, fmt.Errorf("flush export '%s': %w", e.Name, ferr))
			}
		}
	}
	return err
}
