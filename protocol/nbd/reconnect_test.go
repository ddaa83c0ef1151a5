package nbd_test

import (
	"bytes"
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	nbdserver "github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/nbd"
)

// forgetful is a disk that loses what was not flushed when its server is killed.
type forgetful struct {
	mu            sync.Mutex
	now, durable  []byte
	writes, limit int // after limit writes the server is killed; 0: never
	kill          func()
}

func (d *forgetful) Size() int64 { return int64(len(d.now)) }

func (d *forgetful) ReadAt(_ context.Context, p []byte, off int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(p, d.now[off:])
	return nil
}

func (d *forgetful) change(f func()) {
	d.mu.Lock()
	f()
	d.writes++
	kill := d.limit > 0 && d.writes == d.limit
	d.mu.Unlock()
	if kill {
		d.kill()
	}
}

func (d *forgetful) WriteAt(_ context.Context, p []byte, off int64, _ bool) error {
	d.change(func() { copy(d.now[off:], p) })
	return nil
}

func (d *forgetful) WriteZeroes(_ context.Context, off, n int64, _ nbdserver.ZeroFlags) error {
	d.change(func() { clear(d.now[off : off+n]) })
	return nil
}

func (d *forgetful) Flush(context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.durable, d.now)
	return nil
}

// crash is what the disk is like after its server was killed.
func (d *forgetful) crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	copy(d.now, d.durable)
	d.writes = 0
	if d.limit > 0 {
		d.limit += 10 // what is made again counts, too
	}
}

// flaky is a server that can be killed and started again on one socket.
type flaky struct {
	t     *testing.T
	sock  string
	dev   *forgetful
	mu    sync.Mutex
	stop  context.CancelFunc
	conns []net.Conn
	ended chan struct{}
	again sync.WaitGroup
	times int
}

// listener notes the connections, so that they can be cut.
type listener struct {
	net.Listener
	f *flaky
}

func (l listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err == nil {
		l.f.mu.Lock()
		l.f.conns = append(l.f.conns, c)
		l.f.mu.Unlock()
	}
	return c, err
}

func (f *flaky) start() {
	f.mu.Lock()
	defer f.mu.Unlock()
	ctx, stop := context.WithCancel(context.Background())
	srv := nbdserver.New(nbdserver.Config{})
	if err := srv.AddExport(&nbdserver.Export{Device: f.dev, MultiConn: true}); err != nil {
		f.t.Error(err)
	}
	l, err := net.Listen("unix", f.sock)
	if err != nil {
		f.t.Error(err)
		stop()
		return
	}
	f.stop, f.ended = stop, make(chan struct{})
	go func() {
		defer close(f.ended)
		_ = srv.Serve(ctx, listener{l, f})
		_ = srv.Shutdown(ctx)
	}()
}

// kill stops the server without a flush, and starts another one.
func (f *flaky) kill() {
	f.mu.Lock()
	f.again.Add(1)
	for _, c := range f.conns {
		c.Close() // nothing is answered any more
	}
	f.conns = nil
	f.stop()
	f.times++
	f.mu.Unlock()
	go func() {
		defer f.again.Done()
		<-f.ended
		f.dev.crash()
		f.start()
	}()
}

func openNBD(t *testing.T, sock string, more opts.Dict) (*block.Image, error) {
	t.Helper()
	d := opts.Dict{"driver": "nbd", "server.type": "unix", "server.path": sock}
	for k, v := range more {
		d[k] = v
	}
	return block.Open(t.Context(), block.NewRegistry(nbd.New()), block.Source{Options: d},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
}

// TestReconnect kills the server every few writes. It loses all that was not flushed
// each time; nothing of it is missing in the end.
func TestReconnect(t *testing.T) {
	const size = 4 << 20
	f := &flaky{t: t, sock: filepath.Join(t.TempDir(), "s"), dev: &forgetful{now: make([]byte, size), durable: make([]byte, size), limit: 40}}
	f.dev.kill = f.kill
	f.start()
	img, err := openNBD(t, f.sock, opts.Dict{"reconnect-delay": "20"})
	if err != nil {
		t.Fatal(err)
	}
	const workers = 4
	model := testkit.NewModel(size)
	var mu sync.Mutex
	g, ctx := errgroup.WithContext(t.Context())
	for w := range int64(workers) {
		g.Go(func() error {
			r := testkit.Rand(uint64(w))
			for i := range 100 {
				// Each worker has a part of the disk.
				part := int64(size / workers)
				off := w*part + r.Int64N(part-8192)
				p := make([]byte, 1+r.IntN(8192))
				var err error
				if i%5 == 4 {
					err = img.WriteZeroes(ctx, off, int64(len(p)), 0)
				} else {
					testkit.Fill(r, p)
					_, err = img.WriteAt(ctx, p, off)
				}
				if err == nil && i%30 == 29 {
					err = img.Flush(ctx)
				}
				if err != nil {
					return err
				}
				mu.Lock()
				model.Write(p, off)
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	f.dev.mu.Lock()
	f.dev.limit = 0
	f.dev.mu.Unlock()
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.dev.mu.Lock()
	defer f.dev.mu.Unlock()
	if d := model.Diff(f.dev.durable, 0); d != "" {
		t.Fatalf("after %d restarts: %s", f.times, d)
	}
	if f.times < 5 {
		t.Fatalf("the server was killed %d times only", f.times)
	}
	f.stop()
}

// TestNoReconnect: without a delay, a request fails when the connection is lost, and
// one of another size is refused.
func TestNoReconnect(t *testing.T) {
	const size = 1 << 20
	f := &flaky{t: t, sock: filepath.Join(t.TempDir(), "s"), dev: &forgetful{now: make([]byte, size), durable: make([]byte, size), limit: 3}}
	f.dev.kill = f.kill
	f.start()
	img, err := openNBD(t, f.sock, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	defer func() {
		f.mu.Lock()
		again := &f.again // the kill has begun
		f.mu.Unlock()
		again.Wait()
	}()
	failed := false
	for i := range int64(10) {
		if _, err := img.WriteAt(t.Context(), bytes.Repeat([]byte{1}, 4096), i*4096); err != nil {
			failed = true
			break
		}
	}
	if !failed {
		t.Error("the loss of the connection goes unnoticed")
	}
}

// TestOpenTimeout opens an export whose server comes later.
func TestOpenTimeout(t *testing.T) {
	const size = 1 << 20
	f := &flaky{t: t, sock: filepath.Join(t.TempDir(), "s"), dev: &forgetful{now: make([]byte, size), durable: make([]byte, size)}}
	if _, err := openNBD(t, f.sock, nil); err == nil {
		t.Fatal("there is no server")
	}
	time.AfterFunc(50*time.Millisecond, f.start)
	img, err := openNBD(t, f.sock, opts.Dict{"open-timeout": "20"})
	if err != nil {
		t.Fatal(err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.stop()
}
