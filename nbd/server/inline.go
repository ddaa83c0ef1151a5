package server

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/cowl-disk/cowl/internal/bufpool"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// inlineLimit is how long the leader may be held up by a request that it executes
	// itself before another goroutine takes its place.
	inlineLimit = 20 * time.Millisecond
	watchEvery  = 10 * time.Millisecond
	// watchIdle is how many times in a row the watch finds nothing before it ends.
	watchIdle = 50
)

// errDeposed ends a leader in whose place there is another.
var errDeposed = errors.New("another goroutine leads the connection")

// inline is how the leader executes requests itself, and how it is noticed when one of
// them takes too long. While a request is executed, since is its start in
// nanoseconds, and the watch may take c.in and c.own away by changing since: the
// leader, when it comes back, sees that and touches them no more.
type inline struct {
	since atomic.Int64 // 0: nothing is being executed; taken: see above
	rest  unfinished
	mark  int          // bytes of own.arena that are complete replies
	away  atomic.Int32 // leaders that were deposed and have not come back
	ended chan error   // takes the end of a leader that is not the first one
}

const taken = -1

// unfinished is a write of which a piece is being executed: the payload from its byte
// off on has not been read yet.
type unfinished struct {
	req wire.Request
	op  *op
	off int
}

// fast says whether the leader executes requests itself.
func (c *conn) fast() bool { return c.pace.fast() && c.inline.away.Load() == 0 }

// enter begins to execute a request.
func (c *conn) enter(start time.Time, mark int) (token int64) {
	token = start.UnixNano()
	c.inline.mark = mark
	c.inline.since.Store(token)
	if s := c.srv; !s.watching.Load() && s.watching.CompareAndSwap(false, true) {
		go s.watch()
	}
	return token
}

// leave ends it. If it returns false this goroutine leads no more.
func (c *conn) leave(token int64) bool {
	if c.inline.since.CompareAndSwap(token, 0) {
		return true
	}
	c.inline.away.Add(-1)
	return false
}

// watch looks after the leaders of all connections, as long as they execute requests.
func (s *Server) watch() {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for idle := 0; ; idle++ {
		<-tick.C
		if s.look() {
			idle = 0
		}
		if idle < watchIdle {
			continue
		}
		// A leader that began before it saw this has gone unnoticed so far.
		s.watching.Store(false)
		if !s.look() || !s.watching.CompareAndSwap(false, true) {
			return
		}
		idle = 0
	}
}

// look deposes leaders that take too long, and reports whether any executes a request.
func (s *Server) look() (any bool) {
	now := time.Now().UnixNano()
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		since := c.inline.since.Load()
		any = any || since != 0
		if since > 0 && now-since > int64(inlineLimit) && c.inline.since.CompareAndSwap(since, taken) {
			c.depose()
		}
	}
	return any
}

// depose starts another leader, with all that the old one has but the request that it
// is executing: its payload stays in the old buffer, and so does its reply.
func (c *conn) depose() {
	in := requestReader{r: c.nc, buf: bufpool.Get(readBuffer)}
	in.end = copy(in.buf, c.in.buf[c.in.start:c.in.end])
	own := replies{arena: append([]byte(nil), c.own.arena[:c.inline.mark]...)}
	if c.inline.mark > 0 {
		own.parts = []part{{to: c.inline.mark}}
	}
	rest := c.inline.rest
	c.in, c.own, c.inline.rest = in, own, unfinished{}
	c.pace.average.Store(int64(time.Second))
	c.inline.away.Add(1)
	c.inline.since.Store(0)
	c.wg.Add(1)
	go func() {
		defer c.wg.Done()
		err := c.payload(&rest.req, rest.op, rest.off)
		if err == nil {
			err = c.lead()
		}
		if errors.Is(err, errDeposed) {
			return
		}
		if !orderly(err) {
			// The first leader, which does the rest, may not be back yet.
			c.cut()
		}
		c.inline.ended <- err
	}()
}

// orderly says whether a connection ends so that replies are still sent.
func orderly(err error) bool {
	return errors.Is(err, errDisc) || errors.Is(err, os.ErrDeadlineExceeded)
}

// cut makes everything that waits for the client, or works for it, end.
func (c *conn) cut() {
	c.cancel()
	c.raw.Close()
}
