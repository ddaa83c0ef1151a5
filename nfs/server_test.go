package nfs_test

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/internal/oncrpc"
	"github.com/cowl-disk/cowl/nfs"
)

// Statuses and procedures of RFC 1813 that the server of these tests has.
const (
	statusNoEnt   = 2
	statusExist   = 17
	statusNoSpc   = 28
	statusStale   = 70
	statusJukebox = 10008

	procRead   = 6
	procWrite  = 7
	procCreate = 8
	procRemove = 12
	procCommit = 21
)

// server is a server of version 3 with one directory in memory, and all services on one
// port. What was not committed is lost with restart.
type server struct {
	net.Listener
	config nfs.Config
	// before may answer a call itself: with a status, or by breaking the connection before or after
	// the call is executed.
	before func(proc uint32) fault

	mu       sync.Mutex
	verifier uint64
	files    map[string]*content
	conns    map[net.Conn]bool
	calls    map[uint32]int
	running  sync.WaitGroup
}

type content struct {
	now, stable []byte
	created     string // the verifier of the creation
}

type fault struct {
	status      uint32
	breakBefore bool
	breakAfter  bool
	silent      bool
}

func newServer(t testing.TB) *server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	s := &server{Listener: l, verifier: 1, files: map[string]*content{}, conns: map[net.Conn]bool{}, calls: map[uint32]int{},
		config: nfs.Config{Host: "127.0.0.1", NFSPort: port, MountPort: port, Version: nfs.Version3}}
	s.running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			s.conns[c] = true
			s.mu.Unlock()
			s.running.Go(func() { s.serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); s.hangUp(); s.running.Wait() })
	return s
}

// faults sets before.
func (s *server) faults(before func(proc uint32) fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = before
}

func (s *server) hangUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.Close()
	}
}

// restart loses what was not committed.
func (s *server) restart() {
	s.hangUp()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lose()
}

// lose is called with mu.
func (s *server) lose() {
	s.verifier++
	for _, f := range s.files {
		f.now = append([]byte(nil), f.stable...)
	}
}

func (s *server) serve(c net.Conn) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	for {
		var mark [4]byte
		if _, err := io.ReadFull(c, mark[:]); err != nil {
			return
		}
		b := make([]byte, binary.BigEndian.Uint32(mark[:])&0x7fffffff)
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		d := oncrpc.NewDecoder(b)
		xid := d.Uint32()
		d.Fixed(8)
		program := d.Uint32()
		d.Uint32()
		proc := d.Uint32()
		for range 2 { // the credential, the verifier
			d.Uint32()
			d.Opaque(400)
		}
		var f fault
		s.mu.Lock()
		before := s.before
		s.mu.Unlock()
		if before != nil && program == 100003 {
			f = before(proc)
		}
		if f.breakBefore {
			return
		}
		if f.silent {
			continue
		}
		var e oncrpc.Encoder
		e.Uint32(0)
		e.Uint32(xid)
		e.Uint32(1)
		e.Fixed(make([]byte, 4*4)) // accepted, no verifier, success
		if f.status != 0 {
			e.Uint32(f.status)
			e.Fixed(make([]byte, 8)) // no attributes
		} else {
			s.execute(program, proc, d, &e)
		}
		if f.breakAfter {
			return
		}
		binary.BigEndian.PutUint32(e.B, 1<<31|uint32(len(e.B)-4))
		if _, err := c.Write(e.B); err != nil {
			return
		}
	}
}

func attr(e *oncrpc.Encoder, f *content) {
	e.Uint32(1)
	e.Uint32(0o600)
	e.Fixed(make([]byte, 12))
	e.Uint64(uint64(len(f.now)))
	e.Uint64(uint64(len(f.now)))
	e.Fixed(make([]byte, 48))
}

// execute does what a call asks for (RFC 1813, section 3.3). File handles are names.
func (s *server) execute(program, proc uint32, d *oncrpc.Decoder, e *oncrpc.Encoder) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fh := string(d.Opaque(1024))
	if program == 100005 {
		e.Uint32(0)
		e.Opaque([]byte("/"))
		e.Uint32(0)
		return
	}
	s.calls[proc]++
	f := s.files[fh]
	none := func(status uint32) {
		e.Uint32(status)
		e.Fixed(make([]byte, 8))
	}
	if f == nil && fh != "/" {
		none(statusStale)
		return
	}
	switch proc {
	case 1:
		e.Uint32(0)
		attr(e, f)
	case 2:
		if d.Bool() {
			d.Uint32()
		}
		d.Fixed(8)
		if d.Bool() {
			f.resize(int(d.Uint64()))
			f.stable = append([]byte(nil), f.now...)
		}
		none(0)
	case 3:
		if name := d.String(255); s.files[name] != nil {
			e.Uint32(0)
			e.Opaque([]byte(name))
			e.Fixed(make([]byte, 8))
		} else {
			e.Uint32(statusNoEnt)
			e.Uint32(0)
		}
	case 4:
		e.Uint32(0)
		e.Uint32(0)
		e.Uint32(d.Uint32())
	case procRead:
		off, n := d.Uint64(), uint64(d.Uint32())
		off = min(off, uint64(len(f.now)))
		part := f.now[off:min(off+n, uint64(len(f.now)))]
		e.Uint32(0)
		e.Uint32(0)
		e.Uint32(uint32(len(part)))
		e.Bool(off+n >= uint64(len(f.now)))
		e.Opaque(part)
	case procWrite:
		off, n := d.Uint64(), d.Uint32()
		d.Uint32()
		f.resize(max(len(f.now), int(off)+int(n)))
		copy(f.now[off:], d.Opaque(int(n)))
		none(0)
		e.Uint32(n)
		e.Uint32(0)
		e.Uint64(s.verifier)
	case procCreate:
		name := d.String(255)
		d.Uint32()
		verifier := string(d.Fixed(8))
		if old := s.files[name]; old != nil && old.created != verifier {
			none(statusExist)
			return
		}
		s.files[name] = &content{created: verifier}
		e.Uint32(0)
		e.Bool(true)
		e.Opaque([]byte(name))
		e.Fixed(make([]byte, 12))
	case procRemove:
		name := d.String(255)
		if s.files[name] == nil {
			none(statusNoEnt)
			return
		}
		delete(s.files, name)
		none(0)
	case 19:
		e.Uint32(0)
		e.Uint32(0)
		for _, n := range []uint32{64 << 10, 64 << 10, 1, 64 << 10, 64 << 10, 1, 4096} {
			e.Uint32(n)
		}
		e.Uint64(1 << 40)
		e.Fixed(make([]byte, 12))
	case procCommit:
		f.stable = append([]byte(nil), f.now...)
		none(0)
		e.Uint64(s.verifier)
	}
}

func (f *content) resize(n int) {
	if n <= len(f.now) {
		f.now = f.now[:n]
		return
	}
	f.now = append(f.now, make([]byte, n-len(f.now))...)
}

// durable is what a file would be after a restart.
func (s *server) durable(name string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]byte(nil), s.files[name].stable...)
}

// mount connects to the server and makes a file.
func (s *server) mount(t testing.TB) (*nfs.Client, *nfs.File) {
	t.Helper()
	c, err := nfs.Mount(t.Context(), s.config, "/")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(t.Context()) })
	f, _, made, err := c.Create(t.Context(), "disk", 0o600)
	if err != nil || !made {
		t.Fatal(made, err)
	}
	t.Cleanup(func() { _ = f.Close(t.Context()) })
	return c, f
}
