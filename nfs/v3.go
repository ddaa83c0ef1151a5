package nfs

import (
	"cmp"
	"context"
	"crypto/rand"
	"math"
	"net"
	"strconv"
	"sync"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

// Programs and procedures (RFC 1813, sections 3 and 5).
const (
	nfsProgram   = 100003
	mountProgram = 100005
	mountVersion = 3
	procMount    = 1

	procGetattr = 1
	procSetattr = 2
	procLookup  = 3
	procAccess  = 4
	procRead    = 6
	procWrite   = 7
	procCreate  = 8
	procRemove  = 12
	procFsinfo  = 19
	procCommit  = 21

	accessRead     = 0x01
	accessModify   = 0x04
	accessExtend   = 0x08
	createGuarded  = 1
	createExcl     = 2
	typeRegular    = 1
	typeDirectory  = 2
	stableUnstable = 0
)

// version3 is NFS version 3 (RFC 1813).
type version3 struct {
	cfg         *Config
	t           *transport
	root        []byte
	rmax, wmax  int
	maxFileSize int64
}

// once makes one call over a connection of its own.
func once(ctx context.Context, cfg *Config, port int, f func(*oncrpc.Conn) error) error {
	t := newTransport(cfg, cfg.dialer(port))
	defer t.close()
	c, err := t.conn(ctx, false)
	if err != nil {
		return err
	}
	return f(c)
}

// ports returns the ports of the services, as they are given or as the port mapper tells
// them.
func (cfg *Config) ports(ctx context.Context) (mount, server int, err error) {
	mount, server = cfg.MountPort, cfg.NFSPort
	if mount != 0 && server != 0 {
		return mount, server, nil
	}
	ask := func(c *oncrpc.Conn, port *int, program, version uint32, what string) error {
		if *port != 0 {
			return nil
		}
		got, err := oncrpc.GetPort(ctx, c, program, version)
		if *port = int(got); err == nil && got == 0 {
			err = &UnavailableError{what}
		}
		return err
	}
	var merr, serr error
	err = once(ctx, cfg, cfg.PortmapPort, func(c *oncrpc.Conn) error {
		var wg sync.WaitGroup
		wg.Go(func() { merr = ask(c, &mount, mountProgram, mountVersion, "mount service in version 3") })
		serr = ask(c, &server, nfsProgram, 3, "NFS in version 3")
		wg.Wait()
		return cmp.Or(serr, merr)
	})
	if err != nil {
		err = message.Errorf(nil, "asking the port mapper at '%s': %w", net.JoinHostPort(cfg.Host, strconv.Itoa(cfg.PortmapPort)), err)
	}
	return mount, server, err
}

func mount3(ctx context.Context, cfg *Config, directory string) (protocol, error) {
	mountPort, nfsPort, err := cfg.ports(ctx)
	if err != nil {
		return nil, err
	}
	v := &version3{cfg: cfg}
	err = once(ctx, cfg, mountPort, func(c *oncrpc.Conn) (err error) {
		v.root, err = mount(ctx, c, directory)
		return err
	})
	if err != nil {
		return nil, err
	}
	v.t = newTransport(cfg, cfg.dialer(nfsPort))
	// The first connection has to be possible; only later is a server waited for.
	if _, err = v.t.conn(ctx, false); err == nil {
		err = v.fsinfo(ctx)
	}
	if err != nil {
		v.t.close()
		return nil, err
	}
	return v, nil
}

// mount asks for the handle of a directory (RFC 1813, section 5.2.1).
func mount(ctx context.Context, c *oncrpc.Conn, directory string) ([]byte, error) {
	var e oncrpc.Encoder
	e.String(directory)
	d, err := c.Do(ctx, &oncrpc.Call{XID: oncrpc.NewXID(), Program: mountProgram, Version: mountVersion, Procedure: procMount, Args: e.B, MaxReply: maxReply})
	if err != nil {
		return nil, err
	}
	if s := d.Uint32(); s != 0 && d.Err() == nil {
		return nil, &MountError{s}
	}
	fh := d.Opaque(maxHandle3)
	return fh, d.Err()
}

// call makes a call. decode takes the results of one that succeeds. resent: it may have been executed
// before the try that was answered.
func (v *version3) call(ctx context.Context, proc uint32, args, payload []byte, most int, decode func(d *oncrpc.Decoder)) (resent bool, err error) {
	err = patient(ctx, v.cfg, func() error {
		d, again, err := v.t.do(ctx, &oncrpc.Call{XID: oncrpc.NewXID(), Program: nfsProgram, Version: 3, Procedure: proc, Args: args, Payload: payload, MaxReply: most})
		resent = resent || again
		if err != nil {
			return err
		}
		s := Status(d.Uint32())
		if s != ok && d.Err() == nil {
			return check(3, s)
		}
		decode(d)
		return d.Err()
	})
	return resent, err
}

func (v *version3) version() string                      { return Version3 }
func (v *version3) limits() (read, write int)            { return v.rmax, v.wmax }
func (v *version3) close(context.Context)                { v.t.close() }
func (*version3) release(context.Context, *handle) error { return nil }

func (*version3) seek(context.Context, *handle, int64, bool) (int64, bool, error) {
	return 0, false, check(3, errNotSupp)
}

func (*version3) deallocate(context.Context, *handle, int64, int64) error {
	return check(3, errNotSupp)
}

// fattr takes a file's attributes (RFC 1813, section 2.6: fattr3).
func fattr(d *oncrpc.Decoder) (a Attr) {
	kind := d.Uint32()
	a.Regular, a.Directory = kind == typeRegular, kind == typeDirectory
	a.Mode = d.Uint32()
	d.Fixed(12) // links, uid, gid
	a.Size, a.Used = length(d), length(d)
	d.Fixed(8 + 8 + 8 + 24) // rdev, fsid, fileid, times
	return a
}

// length takes a number of bytes.
func length(d *oncrpc.Decoder) int64 {
	n := d.Uint64()
	if n > math.MaxInt64 {
		d.Fail()
		return 0
	}
	return int64(n)
}

// postOp takes attributes that may be missing.
func postOp(d *oncrpc.Decoder) (a Attr, known bool) {
	if known = d.Bool(); known {
		a = fattr(d)
	}
	return a, known
}

// wcc takes the attributes before and after a change.
func wcc(d *oncrpc.Decoder) {
	if d.Bool() {
		d.Fixed(24)
	}
	postOp(d)
}

func (v *version3) fsinfo(ctx context.Context) error {
	var e oncrpc.Encoder
	e.Opaque(v.root)
	_, err := v.call(ctx, procFsinfo, e.B, nil, maxReply, func(d *oncrpc.Decoder) {
		postOp(d)
		v.rmax = transfer(uint64(d.Uint32()))
		d.Fixed(8) // preferred size, multiple
		v.wmax = transfer(uint64(d.Uint32()))
		d.Fixed(12)
		v.maxFileSize = int64(min(d.Uint64(), math.MaxInt64))
		d.Fixed(12)
	})
	return err
}

// transfer is how much is read or written at once where a server takes n bytes.
func transfer(n uint64) int {
	if n < minTransfer {
		return minTransfer
	}
	return int(min(n, maxTransfer)) &^ (minTransfer - 1)
}

func (v *version3) lookup(ctx context.Context, name string) (fh []byte, err error) {
	var e oncrpc.Encoder
	e.Opaque(v.root)
	e.String(name)
	_, err = v.call(ctx, procLookup, e.B, nil, maxReply, func(d *oncrpc.Decoder) { fh = d.Opaque(maxHandle3) })
	return fh, err
}

func (v *version3) open(ctx context.Context, name string, write bool) (*handle, Attr, error) {
	fh, err := v.lookup(ctx, name)
	if err != nil {
		return nil, Attr{}, lookupError(name, err)
	}
	h := &handle{fh: fh}
	a, known, err := v.access(ctx, h, write)
	if err == nil && !known {
		a, err = v.getattr(ctx, h)
	}
	return h, a, err
}

// access asks whether the user has the rights that are needed.
func (v *version3) access(ctx context.Context, h *handle, write bool) (a Attr, known bool, err error) {
	want := uint32(accessRead)
	if write {
		want |= accessModify | accessExtend
	}
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	e.Uint32(want)
	var have uint32
	_, err = v.call(ctx, procAccess, e.B, nil, maxReply, func(d *oncrpc.Decoder) {
		a, known = postOp(d)
		have = d.Uint32()
	})
	if err == nil && have&want != want {
		err = check(3, errAcces)
	}
	return a, known, err
}

func (v *version3) getattr(ctx context.Context, h *handle) (a Attr, err error) {
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	_, err = v.call(ctx, procGetattr, e.B, nil, maxReply, func(d *oncrpc.Decoder) { a = fattr(d) })
	return a, err
}

// sattr encodes what is to be set (sattr3).
func sattr(e *oncrpc.Encoder, mode *uint32, size *int64) {
	if e.Bool(mode != nil); mode != nil {
		e.Uint32(*mode)
	}
	e.Bool(false) // uid
	e.Bool(false) // gid
	if e.Bool(size != nil); size != nil {
		e.Uint64(uint64(*size))
	}
	e.Uint32(0) // times stay
	e.Uint32(0)
}

func (v *version3) setattr(ctx context.Context, h *handle, mode *uint32, size *int64) error {
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	sattr(&e, mode, size)
	e.Bool(false) // no guard
	_, err := v.call(ctx, procSetattr, e.B, nil, maxReply, wcc)
	return err
}

func (v *version3) resize(ctx context.Context, h *handle, size int64) error {
	if v.maxFileSize > 0 && size > v.maxFileSize {
		return check(3, 27)
	}
	return v.setattr(ctx, h, nil, &size)
}

func (v *version3) create(ctx context.Context, name string, mode uint32) (h *handle, a Attr, made bool, err error) {
	// An exclusive creation that is sent again finds its own file.
	fh, err := v.makeFile(ctx, name, createExcl, mode)
	exclusive := true
	if isStatus(err, errNotSupp) {
		exclusive = false
		fh, err = v.makeFile(ctx, name, createGuarded, mode)
	}
	if isStatus(err, errExist) {
		h, a, err := v.open(ctx, name, true)
		return h, a, false, err
	}
	if err != nil {
		return nil, Attr{}, false, err
	}
	if fh == nil {
		if fh, err = v.lookup(ctx, name); err != nil {
			return nil, Attr{}, false, err
		}
	}
	h = &handle{fh: fh}
	if exclusive { // its attributes are anything until they are set
		zero := int64(0)
		if err := v.setattr(ctx, h, &mode, &zero); err != nil {
			return nil, Attr{}, false, err
		}
	}
	a, err = v.getattr(ctx, h)
	return h, a, true, err
}

func (v *version3) makeFile(ctx context.Context, name string, how, mode uint32) (fh []byte, err error) {
	var e oncrpc.Encoder
	e.Opaque(v.root)
	e.String(name)
	e.Uint32(how)
	if how == createExcl {
		e.Fixed(newVerifier())
	} else {
		sattr(&e, &mode, nil)
	}
	_, err = v.call(ctx, procCreate, e.B, nil, maxReply, func(d *oncrpc.Decoder) {
		if d.Bool() {
			fh = d.Opaque(maxHandle3)
		}
	})
	return fh, err
}

// newVerifier is one that no other client has: some servers keep it as times, in which
// the highest bits do not fit.
func newVerifier() []byte {
	b := make([]byte, 8)
	_, _ = rand.Read(b)
	b[0] &= 0x7f
	b[4] &= 0x3f
	return b
}

func (v *version3) remove(ctx context.Context, name string) error {
	var e oncrpc.Encoder
	e.Opaque(v.root)
	e.String(name)
	resent, err := v.call(ctx, procRemove, e.B, nil, maxReply, wcc)
	if resent && isStatus(err, errNoEnt) {
		return nil // the first try has removed it
	}
	return err
}

func (v *version3) read(ctx context.Context, h *handle, p []byte, off int64) (n int, eof bool, err error) {
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	e.Uint64(uint64(off))
	e.Uint32(uint32(len(p)))
	_, err = v.call(ctx, procRead, e.B, nil, len(p)+maxReply, func(d *oncrpc.Decoder) {
		postOp(d)
		d.Uint32() // the length, once more below
		eof = d.Bool()
		n = copy(p, d.Opaque(len(p)))
		d.Release()
	})
	return n, eof, err
}

func (v *version3) write(ctx context.Context, h *handle, payload []byte, n int, off int64) (written int, ver verifier, durable bool, err error) {
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	e.Uint64(uint64(off))
	e.Uint32(uint32(n))
	e.Uint32(stableUnstable)
	e.Uint32(uint32(n))
	_, err = v.call(ctx, procWrite, e.B, payload, maxReply, func(d *oncrpc.Decoder) {
		wcc(d)
		written, durable, ver = wrote(d, n)
	})
	return written, ver, durable, err
}

// wrote takes the end of the results of a write: what both versions have.
func wrote(d *oncrpc.Decoder, n int) (written int, durable bool, ver verifier) {
	count := d.Uint32()
	durable = d.Uint32() != stableUnstable
	copy(ver[:], d.Fixed(len(ver)))
	if int64(count) > int64(n) || count == 0 && n > 0 {
		d.Fail()
	}
	return int(count), durable, ver
}

func (v *version3) commit(ctx context.Context, h *handle) (ver verifier, err error) {
	var e oncrpc.Encoder
	e.Opaque(h.fh)
	e.Uint64(0)
	e.Uint32(0) // the whole file
	_, err = v.call(ctx, procCommit, e.B, nil, maxReply, func(d *oncrpc.Decoder) {
		wcc(d)
		copy(ver[:], d.Fixed(len(ver)))
	})
	return ver, err
}
