package export

import (
	"bytes"
	"context"
	"errors"
	"net"
	"reflect"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

// toy is storage in memory with one dirty bitmap, and fails as it is told to.
type toy struct {
	driver.Bitmapper // what is not implemented here is not called
	b                [1 << 16]byte
	fail             error
	flushes          int
	infos            []driver.BitmapInfo
}

var toySchema = opts.SchemaOf(struct {
	Filename string `opt:"filename"`
}{})

func (d *toy) Desc() *driver.Desc {
	return &driver.Desc{Name: "toy", Kind: driver.KindProtocol, Schemes: []string{"toy"}, OpenOptions: toySchema}
}
func (d *toy) Open(context.Context, *driver.OpenRequest) (driver.Node, error) { return d, nil }
func (d *toy) Size() int64                                                    { return int64(len(d.b)) }
func (d *toy) Limits() driver.Limits                                          { return driver.Limits{OptTransfer: 1 << 20} }
func (d *toy) Traits() driver.Traits                                          { return driver.Traits{} }
func (d *toy) Close(context.Context) error                                    { return nil }
func (d *toy) Flush(context.Context) error                                    { d.flushes++; return d.fail }

func (d *toy) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return copy(p, d.b[off:]), d.fail
}

func (d *toy) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	if d.fail != nil {
		return 0, d.fail
	}
	return copy(d.b[off:], p), nil
}

func (d *toy) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	e := driver.Extent{Length: min(n, 1<<15-off), Kind: driver.ExtentData, HasOffset: true, HostOffset: off}
	if off >= 1<<15 {
		e = driver.Extent{Length: n, Kind: driver.ExtentZero}
	}
	return e, nil
}

func (d *toy) Bitmaps(context.Context) ([]driver.BitmapInfo, error) { return d.infos, nil }

// BitmapExtent says that the second 4 KiB are dirty.
func (d *toy) BitmapExtent(_ context.Context, name string, off, n int64) (int64, bool, error) {
	if name != "daily" {
		return 0, false, driver.ErrInvalid
	}
	switch {
	case off < 4096:
		return min(n, 4096-off), false, nil
	case off < 8192:
		return min(n, 8192-off), true, nil
	}
	return n, false, nil
}

func open(t *testing.T, d *toy, write bool) *block.Image {
	t.Helper()
	img, err := block.Open(t.Context(), block.NewRegistry(d), block.Source{Filename: "toy:x", Format: "toy"},
		block.OpenOptions{Write: write, Gate: driver.DenyAll, Unmap: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) })
	return img
}

func TestErrors(t *testing.T) {
	d := &toy{}
	dev, err := New(t.Context(), open(t, d, true), Options{})
	if err != nil {
		t.Fatal(err)
	}
	w := dev.(server.Writer)
	for _, c := range []struct {
		err  error
		want wire.Errno
	}{
		{syscall.ENOSPC, wire.ENOSPC}, {errors.New("x"), wire.EIO}, {driver.Errorf(driver.ErrReadOnly, "x"), wire.EPERM},
		{driver.ErrUnsupported, wire.ENOTSUP}, {driver.ErrCorrupt, wire.EIO},
	} {
		d.fail = c.err
		if got := wire.ErrnoOf(w.WriteAt(t.Context(), []byte{1}, 0, false)); got != c.want {
			t.Errorf("%v: %v, want %v", c.err, got, c.want)
		}
	}
	d.fail = nil
	if err := w.WriteAt(t.Context(), []byte{1}, 0, true); err != nil || d.flushes != 1 {
		t.Errorf("%v, %d flushes", err, d.flushes)
	}
	if err := dev.(server.ZeroWriter).WriteZeroes(t.Context(), 0, 10, server.ZeroFast); wire.ErrnoOf(err) != wire.ENOTSUP {
		t.Errorf("fast zero: %v", err)
	}
	if err := dev.(server.ZeroWriter).WriteZeroes(t.Context(), 0, 10, 0); err != nil || d.b[0] != 0 {
		t.Errorf("zero: %v", err)
	}
	if l := dev.(server.Limiter).Limits(); l.Preferred != 1<<20 || l.Check() != nil {
		t.Errorf("%+v", l)
	}
	if _, ok := any(mustNew(t, open(t, d, false), Options{})).(server.Writer); ok {
		t.Error("a read-only image can be written")
	}
}

func mustNew(t *testing.T, img *block.Image, o Options) server.Device {
	t.Helper()
	dev, err := New(t.Context(), img, o)
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

// TestContexts asks for block status in all contexts, by way of a client.
func TestContexts(t *testing.T) {
	d := &toy{infos: []driver.BitmapInfo{{Name: "daily"}, {Name: "bad", Inconsistent: true}}}
	img := open(t, d, false)
	for name, want := range map[string]string{
		"none": "bitmap 'none' is not found", "bad": "bitmap 'bad' is inconsistent and cannot be used",
	} {
		if _, err := New(t.Context(), img, Options{Bitmaps: []string{name}}); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
	s := server.New(server.Config{})
	if err := s.AddExport(&server.Export{Device: mustNew(t, img, Options{AllocationDepth: true, Bitmaps: []string{"daily", "daily"}})}); err != nil {
		t.Fatal(err)
	}
	bitmap := wire.ContextDirtyBitmap + "daily"
	names := []string{wire.ContextAllocation, wire.ContextAllocationDepth, bitmap}
	done := make(chan error, 1)
	c, err := client.Dial(t.Context(), client.Config{Contexts: names, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { done <- s.ServeConn(context.Background(), theirs) }()
		return ours, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.Info().Contexts; !reflect.DeepEqual(got, names) {
		t.Errorf("%q", got)
	}
	for name, want := range map[string][]uint64{
		wire.ContextAllocation:      {1 << 15, 0, 1 << 15, wire.StateHole | wire.StateZero},
		wire.ContextAllocationDepth: {1 << 16, 1},
		bitmap:                      {4096, 0, 4096, 1, 1<<16 - 8192, 0},
	} {
		extents, err := c.BlockStatus(t.Context(), name, 0, 1<<16, false)
		var got []uint64
		for _, e := range extents {
			got = append(got, e.Length, e.Flags)
		}
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v, want %v", name, got, err, want)
		}
	}
	p := bytes.Repeat([]byte{1}, 100)
	if err := c.ReadAt(t.Context(), p, 0); err != nil || !bytes.Equal(p, make([]byte, 100)) {
		t.Errorf("%v", err)
	}
	if err := c.Cache(t.Context(), 0, 1<<16); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
