package ssh

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inet"
)

// dialer makes connections to one server. It is safe for concurrent use.
type dialer struct {
	o   *openOptions
	c   *config
	t   *target
	env *driver.Env

	keyMu sync.Mutex
	keys  map[string]ssh.Signer // that were decrypted, by their encrypted form
}

// maxJumps bounds the servers on the way.
const maxJumps = 8

func newDialer(o *openOptions, env *driver.Env) (*dialer, error) {
	if env == nil {
		env = &driver.Env{}
	}
	c, err := loadConfig(env)
	if err != nil {
		return nil, err
	}
	return &dialer{o: o, c: c, env: env, t: c.target(o.Server.Host, o.Server.Port, o.User)}, nil
}

// errSilent is the cause of ending what took longer than the time-out.
var errSilent = driver.Errorf(driver.ErrTimeout, "the server does not answer in time")

// link is a connection over which SSH runs, and what it depends on.
type link struct {
	client *ssh.Client
	conn   *counted
	below  []io.Closer // connections to servers on the way, the last one first
}

// close ends the connection without saying so to the server: that could take long.
func (l *link) close() {
	_ = l.conn.Close()
	_ = l.client.Close()
	for _, c := range l.below {
		_ = c.Close()
	}
}

// counted is a connection that counts bytes, to see whether anything moves.
type counted struct {
	net.Conn
	moved atomic.Int64
}

// Read implements net.Conn.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.moved.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.moved.Add(int64(n))
	return n, err
}

// dial connects and logs in.
func (d *dialer) dial(ctx context.Context) (*link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	pause := func() func() { return func() {} }
	if limit := d.o.timeout(); limit > 0 {
		clock := time.AfterFunc(limit, func() { cancel(errSilent) })
		defer clock.Stop()
		pause = func() func() { clock.Stop(); return func() { clock.Reset(limit) } }
	}
	l, err := d.connect(ctx, d.t, false, 0, pause)
	if err != nil && ctx.Err() != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errSilent) {
			return nil, driver.Errorf(driver.ErrInvalid, "failed to connect to '%s:%s': %w", d.t.host, d.t.port, cause)
		}
		return nil, ctx.Err()
	}
	return l, err
}

// connect makes a connection to t, which is a server on the way if through is set.
func (d *dialer) connect(ctx context.Context, t *target, through bool, depth int, pause func() func()) (*link, error) {
	if depth > maxJumps {
		return nil, invalid("ProxyJump of '%s' goes over more than %d servers", t.alias, maxJumps)
	}
	var below []io.Closer
	fail := func(err error) (*link, error) {
		for _, c := range below {
			_ = c.Close()
		}
		return nil, err
	}
	var conn net.Conn
	var err error
	jump, command := d.c.get(t.alias, "ProxyJump"), d.c.get(t.alias, "ProxyCommand")
	switch {
	case jump != "" && !strings.EqualFold(jump, "none"):
		// Of several servers each is reached over the one before.
		var last *link
		for i, hop := range strings.Split(jump, ",") {
			next, herr := d.hop(ctx, hop, last, depth+i+1, pause)
			if herr != nil {
				return fail(herr)
			}
			last = next
			below = append([]io.Closer{closerFunc(func() error { next.close(); return nil })}, below...)
		}
		if conn, err = last.client.DialContext(ctx, "tcp", address(t.host, t.port)); err != nil {
			return fail(invalid("failed to connect to '%s:%s' over '%s': %w", t.host, t.port, jump, err))
		}
	case command != "" && !strings.EqualFold(command, "none"):
		if err := t.safeInShell(); err != nil {
			return nil, err
		}
		if conn, err = runProxy(d.c.expand(command, t)); err != nil {
			return nil, invalid("could not start the ProxyCommand of '%s': %w", t.alias, err)
		}
	default:
		e, err := d.o.endpoint(t.host, t.port)
		if err != nil {
			return nil, err
		}
		if conn, err = inet.Dial(ctx, e.Network, e.Address); err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, e.Error(err)
		}
	}
	l, err := d.login(ctx, t, conn, through, pause)
	if err != nil {
		return fail(err)
	}
	l.below = below
	return l, nil
}

// hop connects to one server of ProxyJump: [user@]host[:port], over another if last is
// not nil.
func (d *dialer) hop(ctx context.Context, name string, last *link, depth int, pause func() func()) (*link, error) {
	name = strings.TrimPrefix(strings.TrimSpace(name), "ssh://")
	user := ""
	if i := strings.LastIndexByte(name, '@'); i >= 0 {
		user, name = name[:i], name[i+1:]
	}
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = strings.Trim(name, "[]"), ""
	}
	t := d.c.target(host, port, user)
	if last == nil {
		return d.connect(ctx, t, true, depth, pause)
	}
	conn, err := last.client.DialContext(ctx, "tcp", address(t.host, t.port))
	if err != nil {
		return nil, invalid("failed to connect to '%s:%s': %w", t.host, t.port, err)
	}
	return d.login(ctx, t, conn, true, pause)
}

// login runs SSH over a connection, which it closes if that fails.
func (d *dialer) login(ctx context.Context, t *target, nc net.Conn, through bool, pause func() func()) (*link, error) {
	conn := &counted{Conn: nc}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	fail := func(err error) (*link, error) {
		_ = conn.Close()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, err
	}
	check, algorithms, err := d.c.checkHostKey(d.o.HostKey, t, through)
	if err != nil {
		return fail(err)
	}
	login := &credentials{d: d, t: t, ctx: ctx, pause: pause}
	defer login.close()
	methods, err := login.methods(through)
	if err != nil {
		return fail(err)
	}
	var trust *HostKeyError // the library drops what its callback returns
	keyFailed := error(nil)
	cc, channels, requests, err := ssh.NewClientConn(conn, address(t.host, t.port), &ssh.ClientConfig{
		User: t.user,
		Auth: methods,
		HostKeyCallback: func(host string, remote net.Addr, key ssh.PublicKey) error {
			keyFailed = check(host, remote, key)
			return keyFailed
		},
		HostKeyAlgorithms: algorithms,
		ClientVersion:     "SSH-2.0-cowl",
	})
	if err != nil {
		var auth *ssh.ServerAuthError
		switch {
		case errors.As(keyFailed, &trust):
			return fail(trust)
		case keyFailed != nil:
			return fail(keyFailed)
		case errors.Is(err, driver.ErrInvalid):
			return fail(err)
		case errors.As(err, &auth), strings.Contains(err.Error(), "unable to authenticate"):
			if d.o.PasswordSecret != "" && !through {
				return fail(invalid("failed to authenticate with the password of '%s' or a key", t.user))
			}
			return fail(invalid("failed to authenticate using publickey authentication and the identities held by your ssh-agent"))
		}
		return fail(invalid("failed to establish SSH session: %w", err))
	}
	if !stop() {
		_ = cc.Close()
		return fail(ctx.Err())
	}
	return &link{client: ssh.NewClient(cc, channels, requests), conn: conn}, nil
}

// proxy is a connection that a command makes, over its standard input and output.
type proxy struct {
	in   io.WriteCloser
	out  io.ReadCloser
	cmd  *exec.Cmd
	once sync.Once
}

// safeInShell refuses names that the shell of a ProxyCommand would take apart: they may
// come from a file that a stranger made, such as an image with a backing file.
func (t *target) safeInShell() error {
	for _, name := range []string{t.alias, t.host, t.user} {
		if strings.HasPrefix(name, "-") || strings.ContainsAny(name, "'`\"$\\;&<>|(){}!*?[]#~ \t\r\n") {
			return invalid("'%s' cannot be part of the ProxyCommand", name)
		}
	}
	return nil
}

// runProxy starts a ProxyCommand.
func runProxy(command string) (net.Conn, error) {
	cmd := exec.Command("/bin/sh", "-c", "exec "+command)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &proxy{in: in, out: out, cmd: cmd}, nil
}

// Read implements net.Conn.
func (p *proxy) Read(b []byte) (int, error) { return p.out.Read(b) }

// Write implements net.Conn.
func (p *proxy) Write(b []byte) (int, error) { return p.in.Write(b) }

// Close implements net.Conn: the command ends.
func (p *proxy) Close() error {
	p.once.Do(func() {
		_ = p.in.Close()
		_ = p.cmd.Process.Kill()
		_ = p.out.Close()
		go func() { _ = p.cmd.Wait() }()
	})
	return nil
}

// The addresses and deadlines of a command's connection: it has none.

func (*proxy) LocalAddr() net.Addr              { return nameOnly("") }
func (*proxy) RemoteAddr() net.Addr             { return nameOnly("") }
func (*proxy) SetDeadline(time.Time) error      { return nil }
func (*proxy) SetReadDeadline(time.Time) error  { return nil }
func (*proxy) SetWriteDeadline(time.Time) error { return nil }
