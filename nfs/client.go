package nfs

import (
	"context"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

// Ports and bounds where Config says nothing else.
const (
	defaultPort        = 2049
	defaultTimeout     = 60 * time.Second
	defaultConnections = 4
	// maxTransfer is the largest read or write that is asked for, in bytes, and
	// minTransfer what each server must take.
	maxTransfer = 1 << 20
	minTransfer = 4096
	// maxHandle is the longest file handle: of version 4; 64 bytes in version 3.
	maxHandle  = 128
	maxHandle3 = 64
	maxReply   = 64 << 10 // of calls that move no data
)

// Versions of the protocol.
const (
	Version3  = "3"
	Version41 = "4.1"
	Version42 = "4.2"
)

// Config says which server, and as whom.
type Config struct {
	Host string
	// Ports; 0: those that the port mapper tells, or 2049 in version 4. With both, version
	// 3 needs no port mapper.
	NFSPort, MountPort int
	PortmapPort        int // 0: 111
	// Version is "3", "4" (the newest that the server has), "4.1", "4.2", or "": 3, or 4
	// where the server has no 3.
	Version  string
	UID, GID uint32
	Groups   []uint32 // further ones; 16 at most count
	// Connections is how many there are at most; 0: a default, for a server that is near one for
	// writes.
	Connections int
	// Timeout is how long a server that does not answer is waited for; 0: a minute. One
	// that asks for patience is asked again for three times as long.
	Timeout time.Duration
	// SynCount is how often the first packet of a connection is sent again; 0: as the system likes (Linux).
	SynCount int
	// Dial makes the connections; nil: over TCP, from a port below 1024 where this
	// process may.
	Dial func(ctx context.Context, address string) (net.Conn, error)
	// Log takes what happens to connections and state (level 1), and each time that the
	// server asks for patience (2); nil: nothing does.
	Log func(level int, text string)

	chosen bool // Connections is
}

func (cfg *Config) defaults() error {
	cfg.chosen = cfg.Connections > 0
	if !cfg.chosen {
		cfg.Connections = defaultConnections
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.PortmapPort == 0 {
		cfg.PortmapPort = oncrpc.PortmapPort
	}
	if cfg.Dial == nil {
		cfg.Dial = cfg.dialDefault
	}
	if cfg.Log == nil {
		cfg.Log = func(int, string) {}
	}
	switch cfg.Version {
	case "", Version3, "4", Version41, Version42:
		return nil
	}
	return message.Errorf(nil, "there is no version %s of NFS: 3, 4, 4.1 and 4.2 can be used", cfg.Version)
}

// Attr is what a server says of a file.
type Attr struct {
	Directory, Regular bool
	Size               int64 // bytes
	Used               int64 // bytes of room, -1 if the server does not say
	Mode               uint32
}

// handle is an open file of a protocol.
type handle struct {
	fh []byte
	*openState
}

// protocol is what the versions do in ways of their own.
type protocol interface {
	version() string
	limits() (read, write int)
	open(ctx context.Context, name string, write bool) (*handle, Attr, error)
	create(ctx context.Context, name string, mode uint32) (h *handle, a Attr, made bool, err error)
	remove(ctx context.Context, name string) error
	getattr(ctx context.Context, h *handle) (Attr, error)
	resize(ctx context.Context, h *handle, size int64) error
	read(ctx context.Context, h *handle, p []byte, off int64) (n int, eof bool, err error)
	// write takes a payload that never changes again: n bytes, and their padding. durable:
	// it is on stable storage.
	write(ctx context.Context, h *handle, payload []byte, n int, off int64) (written int, v verifier, durable bool, err error)
	commit(ctx context.Context, h *handle) (verifier, error)
	// seek returns the next data, or hole, from off on; the end of the file if there is none.
	seek(ctx context.Context, h *handle, off int64, hole bool) (next int64, eof bool, err error)
	deallocate(ctx context.Context, h *handle, off, n int64) error
	release(ctx context.Context, h *handle) error
	close(ctx context.Context)
}

// verifier changes when a server may have lost what it had not committed (RFC 1813,
// section 3.3.21).
type verifier [8]byte

// Client is a directory of a server.
type Client struct {
	cfg Config
	p   protocol
}

// Mount connects to a server and looks a directory up: an absolute path, with slashes.
func Mount(ctx context.Context, cfg Config, directory string) (*Client, error) {
	if err := cfg.defaults(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg}
	var err error
	switch cfg.Version {
	case Version3:
		c.p, err = mount3(ctx, &c.cfg, directory)
	case "":
		c.p, err = mountAny(ctx, &c.cfg, directory)
	default:
		c.p, err = mount4(ctx, &c.cfg, directory)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// mountAny mounts with version 3, or with 4 where the server has no 3.
func mountAny(ctx context.Context, cfg *Config, directory string) (protocol, error) {
	p, err := mount3(ctx, cfg, directory)
	var refused *MountError
	if err == nil || ctx.Err() != nil || errors.As(err, &refused) {
		return p, err
	}
	p, err4 := mount4(ctx, cfg, directory)
	if err4 == nil {
		cfg.Log(1, "version "+p.version()+", since not 3: "+err.Error())
		return p, nil
	}
	if errors.As(err4, new(*StatusError)) {
		err = err4 // there is a server of version 4
	}
	return nil, err
}

// Version is the version of the protocol that is used: "3", "4.1" or "4.2".
func (c *Client) Version() string { return c.p.version() }

// Transfer is how many bytes one read and one write move at most.
func (c *Client) Transfer() (read, write int) { return c.p.limits() }

// Open opens a file by its name in the directory, which has no slash. Rights to read it,
// and to write it if write is set, are asked for.
func (c *Client) Open(ctx context.Context, name string, write bool) (*File, Attr, error) {
	h, a, err := c.p.open(ctx, name, write)
	if err != nil {
		return nil, Attr{}, c.explain(err)
	}
	return newFile(c, h), a, nil
}

// Create makes a file with the permissions mode, or opens one that exists for writing,
// whose contents stay. made tells which.
func (c *Client) Create(ctx context.Context, name string, mode uint32) (f *File, a Attr, made bool, err error) {
	h, a, made, err := c.p.create(ctx, name, mode)
	if err != nil {
		return nil, Attr{}, false, c.explain(err)
	}
	return newFile(c, h), a, made, nil
}

// Remove removes a file.
func (c *Client) Remove(ctx context.Context, name string) error {
	return c.explain(c.p.remove(ctx, name))
}

// Close ends the connections. Files that are still open are not committed: see File.Close.
func (c *Client) Close(ctx context.Context) { c.p.close(ctx) }

// explain adds what a refusal usually comes from.
func (c *Client) explain(err error) error {
	var s *StatusError
	if !errors.As(err, &s) || s.Status != errAcces && s.Status != errPerm {
		return err
	}
	if c.cfg.UID == 0 {
		return message.Errorf(nil, "%w (user 0 asks; servers that squash root take it for another user: give the number of one that has the right)", err)
	}
	return message.Errorf(nil, "%w (user %d asks, of group %d)", err, c.cfg.UID, c.cfg.GID)
}

// components are the names of a path.
func components(path string) []string {
	var list []string
	for s := range strings.SplitSeq(path, "/") {
		if s != "" && s != "." {
			list = append(list, s)
		}
	}
	return list
}

// patient calls f again while a server asks for patience.
func patient(ctx context.Context, cfg *Config, f func() error) error {
	wait := firstWait
	until := time.Now().Add(3 * cfg.Timeout)
	for {
		err := f()
		var s *StatusError
		if !errors.As(err, &s) || s.Status != errJukebox && s.Status != errGrace {
			return err
		}
		if time.Now().After(until) {
			return message.Errorf(nil, "the server has asked for patience for %v: %w", 3*cfg.Timeout, err)
		}
		cfg.Log(2, "the server asks for patience: "+s.Name())
		if err := pause(ctx, &wait); err != nil {
			return err
		}
	}
}
