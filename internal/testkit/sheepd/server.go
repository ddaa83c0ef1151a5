// Package sheepd is a Sheepdog cluster of one server for tests, which can be told to misbehave.
// It shares no code with the client that it tests.
package sheepd

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"
)

// Config says what the cluster is like. The zero value is one as the newest servers make it,
// without locks.
type Config struct {
	Locks   bool   // VDIs can be locked
	Old     bool   // it knows neither DISCARD nor the question for its defaults
	Trim    bool   // zeroes at the ends of what is read are left out
	Shift   uint8  // the size of objects, 0: 22
	Network string // "unix": listen there; else 127.0.0.1
	// Intercept sees each request before it is done. It may be called concurrently.
	Intercept func(r *Request) Action
}

// Request is a request.
type Request struct {
	Version, Op        byte
	Flags              uint16
	ID, Length         uint32
	Object, CopyOf     uint64
	Offset             uint32
	Size               uint64
	Base               uint32
	Copies, Policy     byte
	StorePolicy, Shift byte
	Snapshot           uint32
	Data               []byte
}

// Action is what Intercept wants: to answer with Result, if Do is Answer.
type Action struct {
	Do     int
	Result uint32
}

// What may be done with a request.
const (
	Continue = iota
	Answer
	Forget // never answer
	Cut    // the connection, before the request is done
	CutAfter
)

// Cluster is what the servers of a cluster have on their disks. It outlives a Server.
type Cluster struct {
	cfg Config

	mu      sync.Mutex
	objects map[uint64]*object
	inUse   []byte
	deleted map[uint32]bool
	locked  map[uint32]bool
	clock   uint64
}

// NewCluster makes an empty one.
func NewCluster(cfg Config) *Cluster {
	if cfg.Shift == 0 {
		cfg.Shift = 22
	}
	return &Cluster{cfg: cfg, objects: map[uint64]*object{}, inUse: make([]byte, 1<<21), deleted: map[uint32]bool{}, locked: map[uint32]bool{}, clock: 1 << 32}
}

// Server serves a cluster.
type Server struct {
	Address string // host:port, or the path of a socket
	c       *Cluster
	l       net.Listener
	running sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool
}

// Start starts a server, which ends with the test.
func (c *Cluster) Start(t testing.TB) *Server {
	t.Helper()
	network, address := "tcp", "127.0.0.1:0"
	if c.cfg.Network == "unix" {
		network, address = "unix", t.TempDir()+"/sock"
	}
	return c.start(t, network, address)
}

// StartAt starts a server at an address where one was stopped.
func (c *Cluster) StartAt(t testing.TB, address string) *Server { return c.start(t, "tcp", address) }

func (c *Cluster) start(t testing.TB, network, address string) *Server {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Address: l.Addr().String(), c: c, l: l, conns: map[net.Conn]bool{}}
	s.running.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[nc] = true
			s.mu.Unlock()
			s.running.Go(func() { s.serve(nc) })
		}
	})
	t.Cleanup(s.Stop)
	return s
}

// Stop ends the server, as if it were killed: its locks are gone.
func (s *Server) Stop() {
	s.l.Close()
	s.CutAll()
	s.running.Wait()
	s.c.mu.Lock()
	clear(s.c.locked)
	s.c.mu.Unlock()
}

// CutAll ends all connections.
func (s *Server) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for nc := range s.conns {
		nc.Close()
	}
}

// maxData bounds the data of a request.
const maxData = 32 << 20

func (s *Server) serve(nc net.Conn) {
	defer func() {
		nc.Close()
		s.mu.Lock()
		delete(s.conns, nc)
		s.mu.Unlock()
	}()
	br := bufio.NewReaderSize(nc, 64<<10)
	var sending sync.Mutex
	slots := make(chan struct{}, 32)
	var running sync.WaitGroup
	defer running.Wait()
	for {
		r, err := readRequest(br)
		if err != nil {
			return
		}
		slots <- struct{}{}
		running.Go(func() {
			defer func() { <-slots }()
			a := Action{}
			if s.c.cfg.Intercept != nil {
				a = s.c.cfg.Intercept(r)
			}
			var result uint32
			var rest [28]byte
			var data []byte
			switch a.Do {
			case Cut:
				nc.Close()
				return
			case Forget:
				return
			case Answer:
				result = a.Result
			default:
				result, data = s.c.do(r, &rest)
			}
			if a.Do == CutAfter {
				nc.Close()
				return
			}
			var h [48]byte
			le := binary.LittleEndian
			h[0], h[1] = r.Version, r.Op
			le.PutUint32(h[8:], r.ID)
			le.PutUint32(h[12:], uint32(len(data)))
			le.PutUint32(h[16:], result)
			copy(h[20:], rest[:])
			sending.Lock()
			defer sending.Unlock()
			b := net.Buffers{h[:], data}
			if _, err := b.WriteTo(nc); err != nil {
				nc.Close()
			}
		})
	}
}

func readRequest(br *bufio.Reader) (*Request, error) {
	var h [48]byte
	if _, err := io.ReadFull(br, h[:]); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	r := &Request{Version: h[0], Op: h[1], Flags: le.Uint16(h[2:]), ID: le.Uint32(h[8:]), Length: le.Uint32(h[12:])}
	if r.Op < 0x10 {
		r.Object, r.CopyOf, r.Copies, r.Policy, r.Offset = le.Uint64(h[16:]), le.Uint64(h[24:]), h[32], h[33], le.Uint32(h[40:])
	} else {
		r.Size, r.Base, r.Snapshot = le.Uint64(h[16:]), le.Uint32(h[24:]), le.Uint32(h[32:])
		r.Copies, r.Policy, r.StorePolicy, r.Shift = h[28], h[29], h[30], h[31]
	}
	if r.Flags&1 != 0 {
		if r.Length > maxData {
			return nil, io.ErrShortBuffer
		}
		r.Data = make([]byte, r.Length)
		if _, err := io.ReadFull(br, r.Data); err != nil {
			return nil, err
		}
	}
	return r, nil
}
