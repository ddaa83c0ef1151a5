// Package iscsid is a small iSCSI target for tests, which can be told to misbehave. It shares
// no code with the initiator that it tests.
package iscsid

import (
	"encoding/binary"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// Config says what the target is like. The zero value is one without CHAP, with what
// RFC 7143 takes as defaults.
type Config struct {
	Name string // of the target
	// User and Secret are what initiators must know, TargetUser and TargetSecret what the
	// target proves to those that ask. Algorithm is that of CHAP, 0 is 5 (MD5).
	User, Secret, TargetUser, TargetSecret string
	Algorithm                              int
	Draft                                  bool   // 7 is SHA-1
	Digests                                bool   // the target takes CRC32C where it is offered
	NoUnasked                              bool   // InitialR2T=Yes, ImmediateData=No
	Unasked                                bool   // InitialR2T=No
	MaxReceive, MaxBurst, FirstBurst       int    // 0: 8192, 256 KiB, 64 KiB
	Window                                 int    // commands at a time; 0: 128
	Redirect                               string // "self": to the target itself
	Permanent                              bool   // the redirection
	// Intercept sees each command before it is done. It may be called concurrently.
	Intercept func(lun uint32, cdb []byte) Action
}

// Action is what Intercept wants.
type Action struct {
	Do     int
	Status byte
	Sense  []byte
}

// What may be done with a command.
const (
	Continue = iota
	Answer   // with Status and Sense
	Forget   // never answer
	Cut      // the connection
)

// Check is the answer CHECK CONDITION with sense data of the fixed form.
func Check(key byte, code uint16) Action {
	s := make([]byte, 18)
	s[0], s[2], s[7] = 0x70, key, 10
	binary.BigEndian.PutUint16(s[12:], code)
	return Action{Do: Answer, Status: 2, Sense: s}
}

// Unit is a logical unit in memory.
type Unit struct {
	Type           byte
	BlockSize      int
	WriteProtected bool
	Thin           bool // gives blocks back, which read as zeroes
	NoStatus       bool // no GET LBA STATUS
	NoWriteSame    bool
	NoLong         bool // no READ CAPACITY (16)
	MaxTransfer    uint32
	Cached         bool // says that it has a volatile cache

	mu     sync.Mutex
	data   []byte
	mapped []bool
	synced int
}

// NewUnit makes a unit of zeroes.
func NewUnit(size, block int) *Unit {
	return &Unit{BlockSize: block, data: make([]byte, size), mapped: make([]bool, size/block)}
}

// Bytes returns a copy of the contents.
func (u *Unit) Bytes() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return append([]byte(nil), u.data...)
}

// Put changes the contents behind the initiators.
func (u *Unit) Put(p []byte, off int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	copy(u.data[off:], p)
	for i := off / u.BlockSize; i < (off+len(p)+u.BlockSize-1)/u.BlockSize; i++ {
		u.mapped[i] = true
	}
}

// Syncs is how often the cache was synchronised.
func (u *Unit) Syncs() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.synced
}

// Server is a running target.
type Server struct {
	Config
	Address string
	Logins  atomic.Int32
	Pings   atomic.Int32 // NOP-Out received

	listener net.Listener
	mu       sync.Mutex
	units    map[uint32]*Unit
	conns    map[*conn]bool
	done     sync.WaitGroup
}

// Start starts a target for the length of the test.
func Start(t testing.TB, c Config, units map[uint32]*Unit) *Server {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name == "" {
		c.Name = "iqn.2026-01.test:t"
	}
	if c.Redirect == "self" {
		c.Redirect = l.Addr().String()
	}
	s := &Server{Config: c, Address: l.Addr().String(), listener: l, units: units, conns: map[*conn]bool{}}
	s.done.Go(func() { s.accept(l) })
	t.Cleanup(func() {
		s.Stop()
		s.done.Wait()
	})
	return s
}

// Stop closes the listener and all connections.
func (s *Server) Stop() {
	s.mu.Lock()
	s.listener.Close()
	s.mu.Unlock()
	s.CutAll()
}

// Restart listens again after Stop, at the same address.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	l, err := net.Listen("tcp", s.Address)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	s.done.Go(func() { s.accept(l) })
}

// CutAll closes all connections.
func (s *Server) CutAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.nc.Close()
	}
}

// Each sends a PDU over all connections: h is the header without its numbers.
func (s *Server) Each(h [48]byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		h := h
		c.numbers(&h)
		_ = c.send(&h, nil)
	}
}

func (s *Server) accept(l net.Listener) {
	for {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		c := &conn{s: s, nc: nc, writes: map[uint32]*write{}, window: 128, maxReceive: 8192, maxBurst: 256 << 10, firstBurst: 64 << 10}
		s.mu.Lock()
		s.conns[c] = true
		s.mu.Unlock()
		s.done.Go(func() {
			defer func() {
				nc.Close()
				s.mu.Lock()
				delete(s.conns, c)
				s.mu.Unlock()
			}()
			_ = c.serve()
		})
	}
}

// conn is a connection.
type conn struct {
	s            *Server
	nc           net.Conn
	sending      sync.Mutex
	statSN       uint32
	cmdSN        uint32 // expected
	window       uint32
	headerDigest bool
	dataDigest   bool
	// What the target takes and what the initiator takes.
	maxReceive, maxBurst, firstBurst int
	maxSend                          int
	unasked, attached                bool
	discovery                        bool
	writes                           map[uint32]*write
}

// write is a command whose data has not all come.
type write struct {
	lun      uint32
	cdb      []byte
	buf      []byte
	got      int
	burstEnd int
	r2t      uint32
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// recv reads a PDU.
func (c *conn) recv() (h [48]byte, data []byte, err error) {
	if _, err = io.ReadFull(c.nc, h[:]); err != nil {
		return h, nil, err
	}
	n := int(h[5])<<16 | int(h[6])<<8 | int(h[7])
	rest := int(h[4]) * 4
	if c.headerDigest {
		rest += 4
	}
	skip := make([]byte, rest)
	if _, err = io.ReadFull(c.nc, skip); err != nil {
		return h, nil, err
	}
	if c.headerDigest && binary.LittleEndian.Uint32(skip) != crc32.Checksum(h[:], castagnoli) {
		return h, nil, io.ErrUnexpectedEOF
	}
	padded := (n + 3) &^ 3
	size := padded
	if c.dataDigest && n > 0 {
		size += 4
	}
	data = make([]byte, size)
	if _, err = io.ReadFull(c.nc, data); err != nil {
		return h, nil, err
	}
	if c.dataDigest && n > 0 && binary.LittleEndian.Uint32(data[padded:]) != crc32.Checksum(data[:padded], castagnoli) {
		return h, nil, io.ErrUnexpectedEOF
	}
	return h, data[:n], nil
}

// numbers fills in the numbers that each PDU of a target has, and counts a status.
func (c *conn) numbers(h *[48]byte) {
	c.sending.Lock()
	defer c.sending.Unlock()
	binary.BigEndian.PutUint32(h[24:], c.statSN)
	binary.BigEndian.PutUint32(h[28:], c.cmdSN)
	binary.BigEndian.PutUint32(h[32:], c.cmdSN+c.window-1)
	switch op := h[0] & 0x3f; {
	case op == 0x31, op == 0x25 && h[1]&1 == 0, op == 0x20 && binary.BigEndian.Uint32(h[16:]) == 0xffffffff:
	default:
		c.statSN++
	}
}

// send writes a PDU.
func (c *conn) send(h *[48]byte, data []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	h[5], h[6], h[7] = byte(len(data)>>16), byte(len(data)>>8), byte(len(data))
	b := append([]byte(nil), h[:]...)
	login := h[0]&0x3f == 0x23
	if c.headerDigest && !login {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(h[:], castagnoli))
	}
	start := len(b)
	b = append(b, data...)
	for (len(b)-start)%4 != 0 {
		b = append(b, 0)
	}
	if c.dataDigest && !login && len(data) > 0 {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b[start:], castagnoli))
	}
	_, err := c.nc.Write(b)
	return err
}

// Swap puts another unit in the place of one.
func (s *Server) Swap(number uint32, u *Unit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.units[number] = u
}
