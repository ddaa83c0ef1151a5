package http_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	driverhttp "github.com/cowl-disk/cowl/protocol/http"
)

// content is a disk of n bytes.
func content(n int) []byte {
	p := make([]byte, n)
	r := testkit.Rand(1)
	for i := range p {
		p[i] = byte(r.Uint64())
	}
	clear(p[n/3 : n/2])
	return p
}

// object serves bytes as a good server does, with what a test adds.
type object struct {
	mu   sync.Mutex
	data []byte
	etag string
	// before, if set, may answer instead; count is the number of the request.
	before   func(w http.ResponseWriter, r *http.Request, count int64) bool
	requests atomic.Int64
}

func (o *object) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	count := o.requests.Add(1)
	if r.Method != http.MethodGet {
		w.WriteHeader(http.StatusForbidden) // as signed URLs do
		return
	}
	if o.before != nil && o.before(w, r, count) {
		return
	}
	o.mu.Lock()
	data, etag := o.data, o.etag
	o.mu.Unlock()
	if etag != "" {
		w.Header().Set("ETag", etag)
	}
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// serve starts a server for an object and returns the URL.
func serve(t *testing.T, o *object) string {
	t.Helper()
	s := httptest.NewServer(o)
	t.Cleanup(s.Close)
	return s.URL + "/disk"
}

// open opens a disk with further options.
func open(ctx context.Context, d opts.Dict, objects driver.Objects) (*block.Image, error) {
	src := block.Source{Options: opts.Dict{"driver": "http"}}
	for k, v := range d {
		src.Options[k] = v
	}
	return block.Open(ctx, block.NewRegistry(driverhttp.New(), driverhttp.NewTLS()), src, block.OpenOptions{Gate: driver.DenyAll, Objects: objects})
}

func mustOpen(t *testing.T, d opts.Dict) *block.Image {
	t.Helper()
	img, err := open(t.Context(), d, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) })
	return img
}

// same reads the disk in pieces and compares.
func same(t *testing.T, img *block.Image, want []byte, piece int) {
	t.Helper()
	if img.Size() != int64(len(want)) {
		t.Fatalf("%d bytes, want %d", img.Size(), len(want))
	}
	p := make([]byte, piece)
	for off := 0; off < len(want); off += piece {
		n, err := img.ReadAt(t.Context(), p, int64(off))
		if err != nil && err != io.EOF || !bytes.Equal(p[:n], want[off:min(off+piece, len(want))]) {
			t.Fatalf("offset %d: %d bytes, wrong, or %v", off, n, err)
		}
	}
}

func TestConformance(t *testing.T) {
	for name, plain := range map[string]bool{"ranges": false, "no ranges": true} {
		t.Run(name, func(t *testing.T) {
			drivertest.RunFixture(t, drivertest.Fixture{Driver: driverhttp.New(), Content: content(3<<20 + 700), Serve: func(t *testing.T, p []byte) string {
				o := &object{data: p}
				if plain {
					o.before = whole(o)
				}
				return serve(t, o)
			}})
		})
	}
}

// whole makes a server that has no ranges.
func whole(o *object) func(http.ResponseWriter, *http.Request, int64) bool {
	return func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(o.data)))
		_, _ = w.Write(o.data)
		return true
	}
}

// TestRequests: small reads that follow each other need few requests, and no HEAD.
func TestRequests(t *testing.T) {
	o := &object{data: content(20 << 20), etag: `"a"`}
	img := mustOpen(t, opts.Dict{"url": serve(t, o)})
	same(t, img, o.data, 24<<10)
	if n := o.requests.Load(); n > 20 {
		t.Errorf("%d requests for 20 MiB in pieces of 24 KiB", n)
	}
}

// TestSizes: objects of no bytes, of few, of a length that is told only by their end.
func TestSizes(t *testing.T) {
	for _, n := range []int{0, 1, 511, 512, 262143, 262144, 262145} {
		o := &object{data: content(n + 3)[:n]}
		same(t, mustOpen(t, opts.Dict{"url": serve(t, o)}), o.data, 100<<10)
		o.before = func(w http.ResponseWriter, _ *http.Request, _ int64) bool {
			w.(http.Flusher).Flush() // chunked
			_, _ = w.Write(o.data)
			return true
		}
		same(t, mustOpen(t, opts.Dict{"url": serve(t, o)}), o.data, 100<<10)
	}
}

// cut answers a range with half of it, and then closes the connection.
func cut(o *object, w http.ResponseWriter, r *http.Request) bool {
	var first, last int
	if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last); err != nil {
		return false
	}
	last = min(last, len(o.data)-1)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(o.data)))
	w.Header().Set("Content-Length", strconv.Itoa(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
	_, _ = w.Write(o.data[first : (first+last+1)/2])
	panic(http.ErrAbortHandler)
}

// TestPassing: what passes is not noticed, whatever it was.
func TestPassing(t *testing.T) {
	status := func(code int) func(*object, http.ResponseWriter, *http.Request) bool {
		return func(_ *object, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Retry-After", "0")
			w.WriteHeader(code)
			return true
		}
	}
	for name, fault := range map[string]func(*object, http.ResponseWriter, *http.Request) bool{
		"cut": cut, "lost": func(*object, http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) },
		"429": status(429), "503": status(503), "416": status(416), "408": status(408), "500": status(500),
		"silence": func(_ *object, _ http.ResponseWriter, r *http.Request) bool {
			<-r.Context().Done()
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &object{data: content(3 << 20)}
			o.before = func(w http.ResponseWriter, r *http.Request, count int64) bool {
				return count%3 == 2 && fault(o, w, r)
			}
			img := mustOpen(t, opts.Dict{"url": serve(t, o), "timeout": "1"})
			same(t, img, o.data, 1<<20)
			same(t, img, o.data, 200<<10)
		})
	}
}

// TestSpoolAgain: without ranges a lost connection costs another pass, no wrong byte.
func TestSpoolAgain(t *testing.T) {
	o := &object{data: content(3 << 20)}
	o.before = func(w http.ResponseWriter, _ *http.Request, count int64) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(o.data)))
		if count < 3 {
			_, _ = w.Write(o.data[:count<<20])
			panic(http.ErrAbortHandler)
		}
		_, _ = w.Write(o.data)
		return true
	}
	same(t, mustOpen(t, opts.Dict{"url": serve(t, o)}), o.data, 300<<10)
}

// TestForGood: what does not pass is an error that says why, in bounded time.
func TestForGood(t *testing.T) {
	full := content(2 << 20)
	for name, c := range map[string]struct {
		spoil func(o *object, w http.ResponseWriter, r *http.Request) bool
		want  string
	}{
		"404":   {func(_ *object, w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(404); return true }, "returned error: 404"},
		"short": {cut2, "unexpected EOF"},
		"grown": {func(o *object, _ http.ResponseWriter, _ *http.Request) bool {
			o.mu.Lock()
			o.data = append(bytes.Clone(full), 1)
			o.mu.Unlock()
			return false
		}, "changed while it was read: its length was 2097152 and is 2097153"},
		"etag": {func(o *object, _ http.ResponseWriter, _ *http.Request) bool {
			o.mu.Lock()
			o.etag = `"other"`
			o.mu.Unlock()
			return false
		}, "its ETag is another"},
		"no ranges any more": {func(o *object, w http.ResponseWriter, r *http.Request) bool { return whole(o)(w, r, 0) }, "no longer serves ranges"},
		"other offset": {func(o *object, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-0/%d", len(o.data)))
			w.WriteHeader(206)
			_, _ = w.Write(o.data[:1])
			return true
		}, "sends offset 0, not 1048576"},
		"nonsense": {func(_ *object, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Range", "bytes 5-1/x")
			w.WriteHeader(206)
			return true
		}, "Content-Range"},
		"encoded": {func(o *object, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			return false
		}, "encoded (gzip)"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &object{data: full, etag: `"a"`}
			o.before = func(w http.ResponseWriter, r *http.Request, count int64) bool { return count > 1 && c.spoil(o, w, r) }
			img := mustOpen(t, opts.Dict{"url": serve(t, o)})
			_, err := img.ReadAt(t.Context(), make([]byte, 1<<20), 1<<20)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v", err)
			}
		})
	}
}

// cut2 never sends a byte of what it promises.
func cut2(o *object, w http.ResponseWriter, r *http.Request) bool {
	var first, last int
	_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &last)
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(o.data)))
	w.Header().Set("Content-Length", strconv.Itoa(last-first+1))
	w.WriteHeader(http.StatusPartialContent)
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

// TestRedirect: redirections are followed once, again when their target has expired, and
// secrets stay with the host of the URL.
func TestRedirect(t *testing.T) {
	o := &object{data: content(4 << 20)}
	var expired, leaked atomic.Int64
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, name := range []string{"Authorization", "Cookie", "X-Token"} {
			if r.Header.Get(name) != "" {
				leaked.Add(1)
			}
		}
		if r.URL.Query().Get("n") != strconv.FormatInt(expired.Load(), 10) {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		o.ServeHTTP(w, r)
	}))
	defer store.Close()
	// Another host by name: localhost is one, 127.0.0.1 another.
	target := strings.Replace(store.URL, "127.0.0.1", "localhost", 1)
	var asked atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if user, password, _ := r.BasicAuth(); user != "u" || password != "p" || r.Header.Get("Cookie") != "c=1" || r.Header.Get("X-Token") != "t" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		http.Redirect(w, r, target+"?n="+strconv.FormatInt(expired.Load(), 10), http.StatusFound)
	}))
	defer front.Close()
	img, err := open(t.Context(), opts.Dict{"url": front.URL, "username": "u", "password-secret": "s", "cookie": "c=1", "header-secret": "h"},
		driver.Secrets{"s": "p", "h": "X-Token: t\n"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	same(t, img, o.data, 1<<20)
	if asked.Load() != 1 {
		t.Errorf("the redirection was followed %d times", asked.Load())
	}
	expired.Add(1)
	same(t, img, o.data, 1<<20)
	if asked.Load() != 2 || leaked.Load() != 0 {
		t.Errorf("followed %d times after expiry, secrets leaked %d times", asked.Load()-1, leaked.Load())
	}
	if name := img.Filename(); strings.Contains(name, "\"p\"") || !strings.Contains(name, `"password-secret":"s"`) {
		t.Errorf("the name is %s", name)
	}
}

// TestStall: a server that says nothing ends with the time-out or the context.
func TestStall(t *testing.T) {
	o := &object{data: content(2 << 20)}
	o.before = func(_ http.ResponseWriter, r *http.Request, count int64) bool {
		if count > 1 {
			<-r.Context().Done()
		}
		return count > 1
	}
	img := mustOpen(t, opts.Dict{"url": serve(t, o), "timeout": "10000"})
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	for _, n := range []int{1 << 20, 1 << 10} {
		if _, err := img.ReadAt(ctx, make([]byte, n), 1<<20); !errors.Is(err, context.Canceled) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestOptions(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	l.Close()
	tls := httptest.NewTLSServer(&object{data: content(1000)})
	defer tls.Close()
	for _, c := range []struct {
		options string
		want    string
	}{
		{"url=https://x/", "does not start with 'http://'"},
		{"readahead=0", "requires an 'url' option"},
		{"url=http://x/,readahead=1000", "HTTP_READAHEAD_SIZE 1000 is not a multiple of 512"},
		{"url=http://x/,timeout=10001", "timeout parameter is too large or negative"},
		{"url=http://x/,cookie=a,cookie-secret=b", "both cookie and cookie secret"},
		{"url=http://x/,header=a", "'Name: value'"},
		{"url=http://x/,password-secret=none", "no secret with id 'none'"},
		{"url=http://" + closed + "/", "failed to connect to 127.0.0.1 port"},
		{"driver=https,url=" + tls.URL, "certificate verification failed"},
		{"driver=https,sslverify=off,url=" + tls.URL, ""},
		{"driver=https,cacert=/dev/null,url=" + tls.URL, "no certificates in '/dev/null'"},
	} {
		d := opts.Dict{}
		if err := d.ParseList(c.options, ""); err != nil {
			t.Fatal(err)
		}
		img, err := open(t.Context(), d, driver.Secrets{})
		if err == nil {
			img.Close(context.Background())
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(strings.ToLower(err.Error()), strings.ToLower(c.want)) {
			t.Errorf("%s: %v", c.options, err)
		}
	}
	if _, err := block.Open(t.Context(), block.NewRegistry(driverhttp.New()), block.Source{Filename: "http://u:geheim@" + closed + "/x"}, block.OpenOptions{Gate: driver.DenyAll}); err == nil || strings.Contains(strings.TrimPrefix(err.Error(), "could not open 'http://u:geheim@"+closed+"/x'"), "geheim") {
		t.Errorf("%v", err)
	}
	reg := block.NewRegistry(driverhttp.New())
	if _, err := block.Open(t.Context(), reg, block.Source{Filename: serve(t, &object{data: content(1000)})}, block.OpenOptions{Gate: driver.DenyAll, Write: true}); err == nil {
		t.Error("opened for writing")
	}
}
