package http

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/jlaffaye/ftp"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/message"
)

// ftpConnections is how many connections to an FTP server there are at most.
const ftpConnections = 4

// ftpClient reads one file of an FTP server (RFC 959, RFC 3659). It is safe for
// concurrent use.
type ftpClient struct {
	address, path  string
	user, password string
	tls            *tls.Config   // nil for none
	idle           time.Duration // without progress; 0: for ever
	slots          chan struct{} // holds one for each connection that may be in use

	mu       sync.Mutex
	free     []*ftpConn
	conns    int // that are open
	size     int64
	modified time.Time
	known    bool
	closed   bool
}

// ftpConn is one connection to the server, and the transfer that goes on over it.
type ftpConn struct {
	server *ftp.ServerConn
	body   *ftp.Response // nil: no transfer
	pos    int64         // of the next byte of body

	ctx    context.Context // ends with the connection
	cancel context.CancelFunc

	mu    sync.Mutex
	conns []net.Conn // for control and data
}

// kill ends the connection at once.
func (c *ftpConn) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cancel()
	for _, nc := range c.conns {
		_ = nc.Close()
	}
}

// idleConn is a connection on which each read and write has as long as the time-out.
type idleConn struct {
	net.Conn
	idle time.Duration
}

func (c *idleConn) bound() {
	if c.idle > 0 {
		_ = c.SetDeadline(time.Now().Add(c.idle)) // an error shows when the connection is used
	}
}

// Read implements net.Conn.
func (c *idleConn) Read(p []byte) (int, error) {
	c.bound()
	n, err := c.Conn.Read(p)
	return n, idleError(err)
}

// Write implements net.Conn.
func (c *idleConn) Write(p []byte) (int, error) {
	c.bound()
	n, err := c.Conn.Write(p)
	return n, idleError(err)
}

func idleError(err error) error {
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		return errIdle
	}
	return err
}

// ReplyError is what an FTP server answers to a command that fails.
type ReplyError struct {
	Code int
	text string
}

func (e *ReplyError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *ReplyError) Template() (string, []any) {
	switch e.Code {
	case ftp.StatusFileUnavailable:
		return "the file does not exist", nil
	case ftp.StatusNotLoggedIn:
		return "access denied: %d", []any{e.Code}
	}
	return "the FTP server answers: %d %s", []any{e.Code, e.text}
}

// Unwrap tells the kind: codes from 500 are final (RFC 959, section 4.2.1).
func (e *ReplyError) Unwrap() error {
	if e.Code == ftp.StatusFileUnavailable {
		return errors.Join(driver.ErrInvalid, driver.ErrNotExist)
	}
	if e.Code >= 500 {
		return driver.ErrInvalid
	}
	return nil
}

// replyError makes a ReplyError of an error of the library.
func replyError(err error) error {
	var te *textproto.Error
	if errors.As(err, &te) {
		return &ReplyError{te.Code, te.Msg}
	}
	return err
}

func newFTPClient(u *url.URL, o *openOptions, objects driver.Objects) (*ftpClient, error) {
	c := &ftpClient{user: "anonymous", password: "ftp@example.com", idle: time.Duration(o.Timeout) * time.Second,
		slots: make(chan struct{}, ftpConnections)}
	port := u.Port()
	if port == "" {
		port = "21"
		if u.Scheme == "ftps" {
			port = "990"
		}
	}
	c.address = net.JoinHostPort(u.Hostname(), port)
	// The path begins at the folder where one is after the login (RFC 1738, section 3.2.2).
	path, err := url.PathUnescape(strings.TrimPrefix(u.EscapedPath(), "/"))
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "the path of the URL is not encoded well")
	}
	path, kind, typed := strings.Cut(path, ";type=")
	switch {
	case typed && kind != "i":
		return nil, driver.Errorf(driver.ErrUnsupported, "disks are binary: ;type=%s cannot be used", kind)
	case path == "":
		return nil, driver.Errorf(driver.ErrInvalid, "the URL names no file")
	case strings.ContainsAny(path, "\r\n\x00"):
		return nil, driver.Errorf(driver.ErrInvalid, "the path of the URL has characters that FTP cannot send")
	}
	c.path = path
	login, err := userinfo(o.Username, o.PasswordSecret, objects)
	if err != nil {
		return nil, err
	}
	if login == nil {
		login = u.User
	}
	if login != nil {
		c.user = login.Username()
		c.password, _ = login.Password()
	}
	if u.Scheme == "ftps" {
		if c.tls, err = o.tls(); err != nil {
			return nil, err
		}
		c.tls.ServerName = u.Hostname()
		// Servers want the connections for data to continue the session of the other.
		c.tls.ClientSessionCache = tls.NewLRUClientSessionCache(ftpConnections)
	}
	return c, nil
}

// open connects for the first time and returns the size of the file.
func (c *ftpClient) open(ctx context.Context) (int64, error) {
	err := repeat(ctx, func() error {
		fc, err := c.take(ctx, 0)
		if err != nil {
			var dial *DialError
			if errors.As(err, &dial) {
				return driver.Errorf(driver.ErrInvalid, "%w", err) // there may be no such server
			}
			return err
		}
		c.give(fc)
		return nil
	})
	return c.size, err
}

// dial makes a connection and logs in.
func (c *ftpClient) dial(ctx context.Context) (*ftpConn, error) {
	fc := &ftpConn{}
	fc.ctx, fc.cancel = context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, fc.kill)
	defer stop()
	fail := func(err error) (*ftpConn, error) {
		fc.kill()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, requestError(replyError(err))
	}
	connectOne := func(network, address string) (net.Conn, error) {
		bound := fc.ctx
		if c.idle > 0 {
			var cancel context.CancelFunc
			bound, cancel = context.WithTimeout(bound, c.idle)
			defer cancel()
		}
		nc, err := connect(bound, network, address)
		if err != nil {
			return nil, err
		}
		var conn net.Conn = &idleConn{nc, c.idle}
		fc.mu.Lock()
		defer fc.mu.Unlock()
		if err := fc.ctx.Err(); err != nil {
			_ = nc.Close()
			return nil, err
		}
		// The connection for control stays; one for data replaces the one before.
		fc.conns = append(fc.conns[:min(len(fc.conns), 1)], conn)
		if c.tls != nil {
			conn = tls.Client(conn, c.tls)
		}
		return conn, nil
	}
	options := []ftp.DialOption{ftp.DialWithDialFunc(connectOne), ftp.DialWithShutTimeout(c.idle)}
	if c.tls != nil {
		options = append(options, ftp.DialWithTLS(c.tls))
	}
	server, err := ftp.Dial(c.address, options...)
	if err != nil {
		return fail(err)
	}
	if err := server.Login(c.user, c.password); err != nil {
		return fail(err)
	}
	fc.server = server
	size, err := fc.server.FileSize(c.path)
	if err != nil {
		var te *textproto.Error
		if errors.As(err, &te) && (te.Code == ftp.StatusBadCommand || te.Code == ftp.StatusNotImplemented) {
			err = driver.Errorf(driver.ErrUnsupported, "server didn't report file size")
		}
		return fail(err)
	}
	modified := time.Time{}
	if fc.server.IsGetTimeSupported() {
		if modified, err = fc.server.GetTime(c.path); err != nil {
			return fail(err)
		}
	}
	if err := c.check(size, modified); err != nil {
		return fail(err)
	}
	if !stop() {
		return fail(ctx.Err())
	}
	return fc, nil
}

// check compares the file with what it was, or notes what it is.
func (c *ftpClient) check(size int64, modified time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case size < 0:
		return driver.Errorf(driver.ErrInvalid, "the server says that the file has %d bytes", size)
	case !c.known:
		c.size, c.modified, c.known = size, modified, true
	case size != c.size || !modified.Equal(c.modified):
		return &ChangedError{fmt.Sprintf("it had %d bytes and has %d, of %v", c.size, size, modified)}
	}
	return nil
}

// take returns a connection for reading at off: one whose transfer is there, one without
// a transfer, another one, or a new one. give takes it back.
func (c *ftpClient) take(ctx context.Context, off int64) (*ftpConn, error) {
	select {
	case c.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	best := -1
	for i, fc := range c.free {
		if fc.body != nil && fc.pos == off {
			best = i
			break
		}
		if fc.body == nil || best < 0 && c.conns == ftpConnections {
			best = i
		}
	}
	if best >= 0 {
		fc := c.free[best]
		c.free = append(c.free[:best], c.free[best+1:]...)
		c.mu.Unlock()
		return fc, nil
	}
	c.conns++
	c.mu.Unlock()
	fc, err := c.dial(ctx)
	if err == nil {
		return fc, nil
	}
	c.mu.Lock()
	c.conns--
	others := c.conns > 0
	c.mu.Unlock()
	if reply := (*ReplyError)(nil); others && errors.As(err, &reply) {
		// The server wants no more connections: this slot stays taken.
		return c.take(ctx, off)
	}
	<-c.slots
	return nil, err
}

// give takes a connection back; one that was killed is gone.
func (c *ftpClient) give(fc *ftpConn) {
	c.mu.Lock()
	if fc.ctx.Err() != nil || c.closed {
		c.conns--
		fc.kill()
	} else {
		c.free = append(c.free, fc)
	}
	c.mu.Unlock()
	<-c.slots
}

// close ends all connections.
func (c *ftpClient) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, fc := range c.free {
		fc.kill()
	}
	c.free = nil
}

// read implements source.
func (c *ftpClient) read(ctx context.Context, p []byte, off int64, got func(n int)) error {
	done := 0
	for done < len(p) {
		err := repeat(ctx, func() error {
			n, err := c.readOnce(ctx, p[done:], off+int64(done), got)
			done += n
			if n > 0 && passing(err) {
				return nil // there is progress: the next try is a first one
			}
			return err
		})
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return driver.Errorf(driver.ErrInvalid, "reading %d bytes at offset %d: %w", len(p)-done, off+int64(done), err)
		}
	}
	return nil
}

// readOnce reads over one connection. It returns how many bytes of p it filled.
func (c *ftpClient) readOnce(ctx context.Context, p []byte, off int64, got func(n int)) (done int, err error) {
	fc, err := c.take(ctx, off)
	if err != nil {
		return 0, err
	}
	defer c.give(fc)
	stop := context.AfterFunc(ctx, fc.kill)
	defer stop()
	defer func() {
		if err != nil {
			fc.kill()
			if ctx.Err() != nil {
				err = ctx.Err()
			}
		}
	}()
	if fc.body != nil && fc.pos != off {
		if err := fc.finish(); err != nil {
			return 0, err
		}
	}
	if fc.body == nil {
		if fc.body, err = fc.server.RetrFrom(c.path, uint64(off)); err != nil {
			return 0, requestError(replyError(err))
		}
		fc.pos = off
	}
	for done < len(p) {
		n, err := fc.body.Read(p[done:])
		done += n
		fc.pos += int64(n)
		if got != nil && n > 0 {
			got(n)
		}
		if err != nil && done < len(p) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done, requestError(err)
		}
	}
	if fc.pos == c.size {
		// What the server says at the end of the transfer leaves the way free for the next.
		return done, fc.finish()
	}
	return done, nil
}

// finish ends the transfer. A server that complains of that has ended it, too.
func (c *ftpConn) finish() error {
	body := c.body
	c.body = nil
	err := body.Close()
	var te *textproto.Error
	if errors.As(err, &te) {
		return nil
	}
	return err
}
