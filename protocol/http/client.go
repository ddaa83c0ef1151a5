package http

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/internal/message"
)

// client asks one server for ranges of one object. It is safe for concurrent use.
type client struct {
	http   *http.Client
	url    *url.URL // as given, without user and password
	user   *url.Userinfo
	fields http.Header
	idle   time.Duration // without progress; 0: for ever

	mu    sync.Mutex
	at    *url.URL // where the redirections led to
	what  identity // of the object, once it is known
	known bool
}

// identity tells two states of an object apart.
type identity struct {
	size           int64
	etag, modified string
}

func newClient(u *url.URL, o *openOptions, objects driver.Objects) (*client, error) {
	t, err := o.transport(objects)
	if err != nil {
		return nil, err
	}
	own := *u
	own.User, own.Fragment = nil, ""
	c := &client{url: &own, at: &own, user: u.User, idle: time.Duration(o.Timeout) * time.Second}
	if login, err := userinfo(o.Username, o.PasswordSecret, objects); err != nil {
		return nil, err
	} else if login != nil {
		c.user = login
	}
	if c.fields, err = o.fields(objects); err != nil {
		return nil, err
	}
	c.http = &http.Client{Transport: t, CheckRedirect: c.redirect}
	return c, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// redirect decides about one redirection, which r is about to follow.
func (c *client) redirect(r *http.Request, via []*http.Request) error {
	if len(via) >= maxRedirects {
		return driver.Errorf(nil, "the server redirects more than %d times", maxRedirects)
	}
	if r.URL.Scheme != "http" && r.URL.Scheme != "https" {
		return driver.Errorf(nil, "the server redirects to '%s', which is neither http nor https", r.URL.Scheme)
	}
	if !sameHost(r.URL, c.url) {
		for name := range c.fields {
			r.Header.Del(name)
		}
		r.Header.Del("Authorization")
	}
	return nil
}

// answer is what came for a request: a body, which the caller closes.
type answer struct {
	*http.Response
	body *watched
}

// get sends a request for n bytes at off, or for the whole object if n is 0.
func (c *client) get(ctx context.Context, off, n int64) (*answer, error) {
	c.mu.Lock()
	at := c.at
	c.mu.Unlock()
	w := newWatched(ctx, c.idle)
	var conn *inet.Bulk
	traced := httptrace.WithClientTrace(w.ctx, &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) {
		if conn = bulk(info.Conn); conn != nil {
			conn.Begin()
		}
	}})
	r, err := http.NewRequestWithContext(traced, http.MethodGet, at.String(), nil)
	if err != nil {
		w.Close()
		return nil, err
	}
	r.Header.Set("User-Agent", "cowl")
	if sameHost(at, c.url) {
		for name, values := range c.fields {
			r.Header[name] = values
		}
		if c.user != nil {
			password, _ := c.user.Password()
			r.SetBasicAuth(c.user.Username(), password)
		}
	}
	// What the server would compress has no ranges of the disk.
	r.Header.Set("Accept-Encoding", "identity")
	if n > 0 {
		r.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", off, off+n-1))
	}
	resp, err := c.http.Do(r)
	if err != nil {
		err = w.reason(err)
		w.Close()
		return nil, requestError(err)
	}
	if conn != nil {
		conn.Expect(resp.ContentLength)
	}
	w.start(resp.Body)
	return &answer{Response: resp, body: w}, nil
}

// bulk returns the connection below others, nil if there is none of ours.
func bulk(c net.Conn) *inet.Bulk {
	for c != nil {
		if b, ok := c.(*inet.Bulk); ok {
			return b
		}
		above, ok := c.(interface{ NetConn() net.Conn }) // TLS
		if !ok {
			break
		}
		c = above.NetConn()
	}
	return nil
}

// DialError says that a server, or the proxy, could not be connected to.
type DialError struct {
	Host, Port string
	Err        error
}

func (e *DialError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *DialError) Template() (string, []any) {
	var dns *net.DNSError
	if errors.As(e.Err, &dns) {
		return "could not resolve host: %s", []any{e.Host}
	}
	return "failed to connect to %s port %s: %v", []any{e.Host, e.Port, e.Err}
}

// Unwrap returns what the system said.
func (e *DialError) Unwrap() error { return e.Err }

// requestError is an error of the HTTP library without the URL, which may hold what
// nobody shall see.
func requestError(err error) error {
	var ue *url.Error
	if errors.As(err, &ue) {
		err = ue.Err
	}
	if isTLS(err) {
		return driver.Errorf(driver.ErrInvalid, "server certificate verification failed: %w", err)
	}
	return err
}

// connect is what the transport dials with.
func connect(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := inet.Dial(ctx, network, address)
	if err == nil {
		return inet.NewBulk(c), nil
	}
	if ctx.Err() != nil {
		return nil, err
	}
	e := &DialError{Host: address, Err: err}
	if host, port, serr := net.SplitHostPort(address); serr == nil {
		e.Host, e.Port = host, port
	}
	if no := syscall.Errno(0); errors.As(err, &no) {
		e.Err = no
	}
	return nil, e
}

// moved notes where an answer came from.
func (c *client) moved(a *answer) {
	c.mu.Lock()
	c.at = a.Request.URL
	c.mu.Unlock()
}

// forget goes back to the URL as given. It says whether that is another one.
func (c *client) forget() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	other := c.at.String() != c.url.String()
	c.at = c.url
	return other
}

// check compares an answer with what is known of the object, or notes what it says.
func (c *client) check(a *answer, size int64) error {
	now := identity{size, a.Header.Get("ETag"), a.Header.Get("Last-Modified")}
	if strings.HasPrefix(now.etag, "W/") { // says nothing about bytes
		now.etag = ""
	}
	if e := a.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return driver.Errorf(driver.ErrUnsupported, "the server sends the object encoded (%s)", e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.known {
		c.what, c.known = now, true
		return nil
	}
	switch {
	case size >= 0 && size != c.what.size:
		return &ChangedError{fmt.Sprintf("its length was %d and is %d", c.what.size, size)}
	case now.etag != "" && c.what.etag != "" && now.etag != c.what.etag:
		return &ChangedError{"its ETag is another"}
	case now.modified != "" && c.what.modified != "" && now.modified != c.what.modified:
		return &ChangedError{"it was modified on " + now.modified}
	}
	return nil
}

// ChangedError says that an object is no longer what it was when the disk was opened.
type ChangedError struct{ how string }

func (e *ChangedError) Error() string {
	return "the object on the server changed while it was read: " + e.how
}

// StatusError is an answer that is none: its code.
type StatusError struct {
	Code int
	wait time.Duration // that the server asks for
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the requested URL returned error: %d", e.Code)
}

// Template implements message.Message.
func (e *StatusError) Template() (string, []any) {
	return "the requested URL returned error: %d", []any{e.Code}
}

func statusError(a *answer) error {
	e := &StatusError{Code: a.StatusCode}
	if s, err := strconv.Atoi(a.Header.Get("Retry-After")); err == nil && s > 0 {
		e.wait = min(time.Duration(s)*time.Second, longestWait)
	}
	return e
}

// contentRange reads "bytes FIRST-LAST/TOTAL" or "bytes */TOTAL"; total is -1 where it
// is "*".
func contentRange(s string) (first, last, total int64, err error) {
	bad := func() (int64, int64, int64, error) {
		return 0, 0, 0, driver.Errorf(driver.ErrInvalid, "the server's Content-Range %q is none", s)
	}
	rest, ok := strings.CutPrefix(s, "bytes ")
	if !ok {
		return bad()
	}
	part, whole, ok := strings.Cut(rest, "/")
	if !ok {
		return bad()
	}
	total = -1
	if whole != "*" {
		if total, err = strconv.ParseInt(whole, 10, 64); err != nil || total < 0 {
			return bad()
		}
	}
	if part == "*" {
		return 0, -1, total, nil
	}
	a, b, ok := strings.Cut(part, "-")
	first, err = strconv.ParseInt(a, 10, 64)
	last, err2 := strconv.ParseInt(b, 10, 64)
	if !ok || err != nil || err2 != nil || first < 0 || last < first || total >= 0 && last >= total {
		return bad()
	}
	return first, last, total, nil
}

// Retrying: how often without a byte of progress, and how long between.
const (
	tries       = 6
	firstWait   = 100 * time.Millisecond
	longestWait = 10 * time.Second
)

// read fills p from off, handing on what arrives to got (which may be nil). It tries
// again from where it was after what can be expected to pass.
func (c *client) read(ctx context.Context, p []byte, off int64, got func(n int)) error {
	done, again := 0, false
	for done < len(p) {
		before := done
		err := repeat(ctx, func() error {
			n, err := c.readOnce(ctx, p[done:], off+int64(done), got)
			done += n
			var status *StatusError
			if errors.As(err, &status) && expired(status.Code) && !again && c.forget() {
				again = true // once for each read
				return nil
			}
			if n > 0 && passing(err) {
				return nil // there is progress: the next try is a first one
			}
			return err
		})
		if err != nil && ctx.Err() == nil {
			return driver.Errorf(driver.ErrInvalid, "reading %d bytes at offset %d: %w", len(p)-done, off+int64(done), err)
		}
		if err != nil {
			return err
		}
		if done > before {
			again = false
		}
	}
	return nil
}

// repeat calls try until it succeeds, or fails for good or too often. It waits in
// between, longer each time.
func repeat(ctx context.Context, try func() error) error {
	for failed := 1; ; failed++ {
		err := try()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if !passing(err) || failed >= tries {
			return err
		}
		wait := min(firstWait<<(failed-1), longestWait)
		if status := (*StatusError)(nil); errors.As(err, &status) {
			wait = max(wait, status.wait)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// expired says whether an address that was redirected to may be good no longer.
func expired(code int) bool {
	return code == http.StatusUnauthorized || code == http.StatusForbidden || code == http.StatusNotFound || code == http.StatusGone
}

// passing says whether an error may be gone at the next try.
func passing(err error) bool {
	if err == nil {
		return true
	}
	var status *StatusError
	if errors.As(err, &status) {
		switch status.Code {
		case http.StatusRequestTimeout, http.StatusRequestedRangeNotSatisfiable, http.StatusTooEarly, http.StatusTooManyRequests:
			return true
		}
		return status.Code >= 500 && status.Code != http.StatusNotImplemented && status.Code != http.StatusHTTPVersionNotSupported
	}
	var changed *ChangedError
	return !errors.As(err, &changed) && !errors.Is(err, driver.ErrInvalid) && !errors.Is(err, driver.ErrUnsupported) && !isTLS(err)
}

// readOnce sends one request. It returns how many bytes of p it filled.
func (c *client) readOnce(ctx context.Context, p []byte, off int64, got func(n int)) (int, error) {
	a, err := c.get(ctx, off, int64(len(p)))
	if err != nil {
		return 0, err
	}
	defer a.body.Close()
	switch a.StatusCode {
	case http.StatusPartialContent:
	case http.StatusOK:
		if err := c.check(a, a.ContentLength); err != nil {
			return 0, err
		}
		return 0, driver.Errorf(driver.ErrUnsupported, "the server no longer serves ranges of bytes")
	default:
		return 0, statusError(a)
	}
	first, last, total, err := contentRange(a.Header.Get("Content-Range"))
	if err != nil {
		return 0, err
	}
	if err := c.check(a, total); err != nil {
		return 0, err
	}
	if first != off {
		return 0, driver.Errorf(driver.ErrInvalid, "the server sends offset %d, not %d", first, off)
	}
	c.moved(a)
	p = p[:min(int64(len(p)), last-first+1)]
	done := 0
	for done < len(p) {
		n, err := a.body.Read(p[done:])
		done += n
		if got != nil && n > 0 {
			got(n)
		}
		if err != nil && done < len(p) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return done, err
		}
	}
	return done, nil
}
