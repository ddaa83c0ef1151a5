package nfs

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/internal/oncrpc"
)

const (
	firstWait = 20 * time.Millisecond
	longWait  = time.Second
	// perConnection is how many calls a connection has before another one is made.
	perConnection = 4
	// near is up to which time of connecting writes go over one connection.
	near = 2 * time.Millisecond
	// attempts is how many connections are made, at least, while a server is waited for.
	attempts = 3
)

// transport is a number of connections to one service of a server.
type transport struct {
	dial    func(context.Context) (net.Conn, error)
	auth    oncrpc.Auth
	most    int
	timeout time.Duration
	chosen  bool // most is what the user wants

	mu     sync.Mutex
	conns  []*oncrpc.Conn
	far    bool // connecting took long
	making bool // a connection beside others
	closed bool
	made   sync.WaitGroup
	ctx    context.Context // of connections made beside others
	cancel context.CancelFunc
}

func newTransport(cfg *Config, dial func(context.Context) (net.Conn, error)) *transport {
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	t := &transport{dial: dial, auth: oncrpc.Auth{Machine: host[:min(len(host), 255)], UID: cfg.UID, GID: cfg.GID, Groups: cfg.Groups}, most: cfg.Connections, chosen: cfg.chosen, timeout: cfg.Timeout}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// silence is how long a connection may show no sign of life.
func (t *transport) silence() time.Duration { return max(t.timeout/attempts, time.Millisecond) }

func (t *transport) connect(ctx context.Context) (*oncrpc.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.silence())
	defer cancel()
	began := time.Now()
	nc, err := t.dial(ctx)
	if err != nil {
		return nil, err
	}
	if time.Since(began) > near {
		t.mu.Lock()
		t.far = true
		t.mu.Unlock()
	}
	return oncrpc.NewConn(nc, &t.auth, t.silence()), nil
}

var errClientClosed = errors.New("the client is closed")

// conn returns the connection with the fewest calls. Writes to a server that is near go over one:
// its threads would wait for each other, who write to one file.
func (t *transport) conn(ctx context.Context, write bool) (*oncrpc.Conn, error) {
	t.mu.Lock()
	t.prune()
	if t.closed {
		t.mu.Unlock()
		return nil, errClientClosed
	}
	if len(t.conns) > 0 {
		defer t.mu.Unlock()
		if write && !t.chosen && !t.far {
			return t.conns[0], nil
		}
		c := slices.MinFunc(t.conns, func(a, b *oncrpc.Conn) int { return a.Busy() - b.Busy() })
		if c.Busy() >= perConnection && len(t.conns) < t.most && !t.making {
			t.more()
		}
		return c, nil
	}
	t.mu.Unlock()
	c, err := t.connect(ctx)
	if err != nil {
		if ctx.Err() == nil {
			err = message.Errorf(oncrpc.ErrLost, "%w", err)
		}
		return nil, err
	}
	return c, t.add(c)
}

// add takes a new connection, unless the client was closed meanwhile.
func (t *transport) add(c *oncrpc.Conn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		c.Close()
		return errClientClosed
	}
	t.conns = append(t.conns, c)
	return nil
}

// more makes one more connection in the background. It is called with mu.
func (t *transport) more() {
	t.making = true
	t.made.Go(func() {
		c, err := t.connect(t.ctx)
		if err == nil {
			_ = t.add(c)
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.making = false
		if err != nil {
			t.most = max(1, len(t.conns)) // the server wants no more
		}
	})
}

// prune drops lost connections. It is called with mu.
func (t *transport) prune() {
	t.conns = slices.DeleteFunc(t.conns, (*oncrpc.Conn).Lost)
}

func (t *transport) close() {
	t.mu.Lock()
	t.closed = true
	for _, c := range t.conns {
		c.Close()
	}
	t.conns = nil
	t.mu.Unlock()
	t.cancel()
	t.made.Wait()
}

// do makes a call, again after losses of the connection, until the time-out has passed.
// resent says whether it may have been executed before the call that was answered.
func (t *transport) do(ctx context.Context, k *oncrpc.Call) (d *oncrpc.Decoder, resent bool, err error) {
	var since time.Time
	wait := firstWait
	for {
		var c *oncrpc.Conn
		if c, err = t.conn(ctx, len(k.Payload) > 0); err == nil {
			if d, err = c.Do(ctx, k); err == nil {
				return d, resent, nil
			}
			resent = true
		}
		if ctx.Err() != nil {
			return nil, resent, ctx.Err()
		}
		if !errors.Is(err, oncrpc.ErrLost) {
			return nil, resent, err
		}
		if now := time.Now(); since.IsZero() {
			since = now
			if errors.Is(err, syscall.ETIMEDOUT) {
				since = now.Add(-t.silence())
			}
		}
		if time.Since(since) >= t.timeout {
			return nil, resent, message.Errorf(syscall.ETIMEDOUT, "the server was waited for %v: %w", t.timeout, err)
		}
		if err := pause(ctx, &wait); err != nil {
			return nil, resent, err
		}
	}
}

// pause waits, twice as long each time up to a bound.
func pause(ctx context.Context, wait *time.Duration) error {
	timer := time.NewTimer(*wait)
	defer timer.Stop()
	*wait = min(2**wait, longWait)
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialer connects to a port of the server. Servers may insist on a port below 1024 on the
// client's side: one is taken where the system lets this process.
func (cfg *Config) dialer(port int) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		return cfg.Dial(ctx, net.JoinHostPort(cfg.Host, strconv.Itoa(port)))
	}
}
