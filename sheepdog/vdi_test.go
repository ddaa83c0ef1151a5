package sheepdog_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/sheepd"
	"github.com/cowl-disk/cowl/sheepdog"
)

const object = 1 << 20

func connect(t testing.TB, address string, reconnect time.Duration) *sheepdog.Client {
	t.Helper()
	c, err := sheepdog.Connect(t.Context(), sheepdog.Config{Reconnect: reconnect, Timeout: time.Minute, Dial: func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", address)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, c *sheepdog.Client, o sheepdog.Open) *sheepdog.VDI {
	t.Helper()
	v, err := c.Open(t.Context(), o)
	must(t, err)
	return v
}

// TestModel does random operations beside disks in memory: the current one and its snapshots.
// The connection is cut now and then, and somebody else takes snapshots.
func TestModel(t *testing.T) {
	everyday, steps := 2, 50
	if testkit.Race {
		everyday, steps = 1, 12
	}
	for seed := range uint64(testkit.Count(everyday)) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { model(t, seed, steps) })
	}
}

func model(t *testing.T, seed uint64, steps int) {
	r := rand.New(rand.NewPCG(seed, 1))
	var until atomic.Int64 // requests until the next cut
	until.Store(40)
	cfg := sheepd.Config{Shift: 20, Locks: seed%2 == 0, Trim: seed%3 > 0, Old: seed%4 == 3}
	cfg.Intercept = func(q *sheepd.Request) sheepd.Action {
		// What would do something else the second time is left alone.
		if n := until.Add(-1); n < 0 && q.Op < 0x10 {
			until.Store(20 + int64(q.ID%60))
			return sheepd.Action{Do: []int{sheepd.Cut, sheepd.CutAfter}[q.ID%2]}
		}
		return sheepd.Action{}
	}
	cluster := sheepd.NewCluster(cfg)
	c := connect(t, cluster.Start(t).Address, time.Minute)
	ctx := t.Context()
	disk := make([]byte, 5*object+1024)
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: int64(len(disk))}))
	v := open(t, c, sheepdog.Open{Name: "disk", Lock: true})
	snapshots := map[string][]byte{}
	span := func() (off, n int64) {
		off = r.Int64N(int64(len(disk)))
		return off, min(1+r.Int64N(2*object), int64(len(disk))-off)
	}
	look := func(v *sheepdog.VDI, want []byte) {
		t.Helper()
		got := make([]byte, len(want))
		must(t, v.ReadAt(ctx, got, 0))
		if !bytes.Equal(got, want) {
			t.Fatalf("the disks differ from byte %d on", differ(got, want))
		}
		for off := int64(0); off < v.Size(); {
			data, n := v.Status(off, v.Size())
			if !data && !bytes.Equal(want[off:off+n], make([]byte, n)) {
				t.Fatalf("bytes %d to %d are said to be zeroes", off, off+n)
			}
			off += n
		}
	}
	for i := range steps {
		tag := fmt.Sprint("t", i)
		switch r.IntN(14) {
		case 0, 1, 2, 3, 4:
			off, n := span()
			p := make([]byte, n)
			for k := range p {
				p[k] = byte(r.Uint32())
			}
			must(t, v.WriteAt(ctx, p, off))
			copy(disk[off:], p)
		case 5:
			off, n := span()
			must(t, v.Zero(ctx, off, n, r.IntN(2) == 0, false))
			clear(disk[off : off+n])
		case 6:
			off, n := r.Int64N(5)*object, int64(object)
			switch err := v.Discard(ctx, off, n); {
			case err == nil:
				clear(disk[off : off+n])
			case !cfg.Old || !errors.Is(err, errors.ErrUnsupported):
				t.Fatal(err)
			}
		case 7:
			_, err := v.TakeSnapshot(ctx, tag)
			must(t, err)
			snapshots[tag] = bytes.Clone(disk)
		case 8: // behind our back
			cluster.Take("disk", tag)
			snapshots[tag] = bytes.Clone(disk)
		case 9:
			for tag, old := range snapshots {
				must(t, v.Apply(ctx, tag))
				disk = bytes.Clone(old)
				break
			}
		case 10:
			for tag, old := range snapshots {
				s := open(t, c, sheepdog.Open{Name: "disk", Tag: tag})
				look(s, old)
				must(t, s.Close(ctx))
				break
			}
		case 11:
			list, err := v.Snapshots(ctx)
			must(t, err)
			if len(list) != len(snapshots) {
				t.Fatalf("%d snapshots are listed, there are %d", len(list), len(snapshots))
			}
			for _, s := range list {
				if snapshots[s.Tag] == nil {
					t.Fatalf("snapshot %q is listed", s.Tag)
				}
			}
			if len(list) > 3 {
				must(t, v.DeleteSnapshot(ctx, list[0].Number))
				delete(snapshots, list[0].Tag)
			}
		case 12:
			if len(disk) < 9*object {
				disk = append(disk, make([]byte, 512*r.IntN(2000))...)
				must(t, v.Grow(ctx, int64(len(disk))))
			}
		case 13:
			must(t, v.Close(ctx))
			if n := cluster.Locks(); n > 0 {
				t.Fatalf("%d locks are held after closing", n)
			}
			v = open(t, c, sheepdog.Open{Name: "disk", Lock: true})
		}
		look(v, disk)
	}
	must(t, v.Close(ctx))
	// What others see is the same.
	v = open(t, c, sheepdog.Open{Name: "disk"})
	look(v, disk)
	must(t, v.Close(ctx))
	for tag, old := range snapshots {
		s := open(t, c, sheepdog.Open{Name: "disk", Tag: tag})
		look(s, old)
		must(t, s.Close(ctx))
	}
}

func differ(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// TestSnapshotMeanwhile takes snapshots behind the back of many writers at a time.
func TestSnapshotMeanwhile(t *testing.T) {
	cluster := sheepd.NewCluster(sheepd.Config{Shift: 20, Locks: true})
	c := connect(t, cluster.Start(t).Address, time.Minute)
	ctx := t.Context()
	const size = 32 * object
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: size}))
	v := open(t, c, sheepdog.Open{Name: "disk", Lock: true})
	want := make([]byte, size)
	results := make(chan error)
	const writers = 8
	for w := range writers {
		go func() {
			r := rand.New(rand.NewPCG(uint64(w), 2))
			var err error
			for range 60 {
				// Each has blocks of its own in all objects.
				off := (r.Int64N(32)*16+int64(w))*(64<<10) + int64(w)*512
				p := bytes.Repeat([]byte{byte(r.Uint32() | 1)}, 4096)
				if err = v.WriteAt(ctx, p, off); err != nil {
					break
				}
				copy(want[off:], p)
			}
			results <- err
		}()
	}
	for i, left := 0, writers; left > 0; i++ {
		select {
		case err := <-results:
			must(t, err)
			left--
		default:
			if i < 12 {
				cluster.Take("disk", fmt.Sprint(i))
			}
			must(t, v.ReadAt(ctx, make([]byte, 512), 0))
		}
	}
	must(t, v.Close(ctx))
	if n := cluster.Locks(); n > 0 {
		t.Errorf("%d locks are held after closing", n)
	}
	v = open(t, c, sheepdog.Open{Name: "disk"})
	got := make([]byte, size)
	must(t, v.ReadAt(ctx, got, 0))
	must(t, v.Close(ctx))
	if !bytes.Equal(got, want) {
		t.Errorf("the disks differ from byte %d on", differ(got, want))
	}
}

// TestSavedTooLate: the table is saved when the VDI has just become a snapshot, once or several
// times in a row, and nothing is written after that.
func TestSavedTooLate(t *testing.T) {
	for _, times := range []int64{1, 2, 3} {
		var cluster *sheepd.Cluster
		var left atomic.Int64
		cluster = sheepd.NewCluster(sheepd.Config{Shift: 20, Intercept: func(q *sheepd.Request) sheepd.Action {
			if q.Op == 3 && q.Object>>63 == 1 {
				if n := left.Add(-1); n >= 0 {
					cluster.Take("disk", fmt.Sprint(n))
				}
			}
			return sheepd.Action{}
		}})
		c := connect(t, cluster.Start(t).Address, time.Minute)
		ctx := t.Context()
		must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: 8 * object}))
		v := open(t, c, sheepdog.Open{Name: "disk", Lock: true})
		must(t, v.WriteAt(ctx, []byte("before"), 5*object))
		left.Store(times)
		must(t, v.WriteAt(ctx, []byte("content"), 3*object))
		left.Store(0)
		must(t, v.Close(ctx))
		v = open(t, c, sheepdog.Open{Name: "disk"})
		for off, want := range map[int64]string{3 * object: "content", 5 * object: "before"} {
			p := make([]byte, len(want))
			must(t, v.ReadAt(ctx, p, off))
			if string(p) != want {
				t.Errorf("%d snapshots: read %q, want %q", times, p, want)
			}
		}
		must(t, v.Close(ctx))
	}
}

// TestOthersEntries: what another client has written since the VDI became a snapshot stays when this
// one goes on with the VDI that is current by then.
func TestOthersEntries(t *testing.T) {
	cluster := sheepd.NewCluster(sheepd.Config{Shift: 20})
	address := cluster.Start(t).Address
	c := connect(t, address, time.Minute)
	ctx := t.Context()
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: 8 * object}))
	put := func(v *sheepdog.VDI, text string, idx int64) { must(t, v.WriteAt(ctx, []byte(text), idx*object)) }
	first := open(t, c, sheepdog.Open{Name: "disk"})
	put(first, "oldest", 5)
	must(t, first.Close(ctx))
	cluster.Take("disk", "a")
	v := open(t, c, sheepdog.Open{Name: "disk"})
	cluster.Take("disk", "b")
	other := open(t, connect(t, address, time.Minute), sheepdog.Open{Name: "disk"})
	put(other, "newest", 5)
	must(t, other.Close(ctx))
	cluster.Take("disk", "c")
	put(v, "ours", 3)
	must(t, v.Close(ctx))
	v = open(t, c, sheepdog.Open{Name: "disk"})
	for idx, want := range map[int64]string{3: "ours", 5: "newest"} {
		p := make([]byte, len(want))
		must(t, v.ReadAt(ctx, p, idx*object))
		if string(p) != want {
			t.Errorf("object %d: read %q, want %q", idx, p, want)
		}
	}
	must(t, v.Close(ctx))
}

// TestSaveFails makes the saving of the table fail: writes do not succeed until it is saved.
func TestSaveFails(t *testing.T) {
	var broken atomic.Bool
	cluster := sheepd.NewCluster(sheepd.Config{Shift: 20, Intercept: func(q *sheepd.Request) sheepd.Action {
		if broken.Load() && q.Op == 3 && q.Object>>63 == 1 {
			return sheepd.Action{Do: sheepd.Answer, Result: uint32(sheepdog.IOError)}
		}
		return sheepd.Action{}
	}})
	c := connect(t, cluster.Start(t).Address, 0)
	ctx := t.Context()
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: 4 * object}))
	v := open(t, c, sheepdog.Open{Name: "disk"})
	broken.Store(true)
	for what, f := range map[string]func() error{
		"a write":                     func() error { return v.WriteAt(ctx, []byte("x"), 0) },
		"another one, of that object": func() error { return v.WriteAt(ctx, []byte("y"), 5) },
		"a flush":                     func() error { return v.Flush(ctx) },
	} {
		if what == "a flush" {
			_ = v.WriteAt(ctx, []byte("x"), 0)
		}
		if err := f(); !errors.Is(err, sheepdog.IOError) {
			t.Errorf("%s: %v", what, err)
		}
	}
	broken.Store(false)
	must(t, v.Flush(ctx))
	if table := cluster.Look("disk", 0, "").Table; !maps.Equal(table, map[uint32]uint32{0: v.Number()}) {
		t.Errorf("the table is %v", table)
	}
	must(t, v.Close(ctx))
}

// TestOnlyChangedEntries: a server drops the counts of references of all entries that a request
// has, so that those that did not change must not be sent.
func TestOnlyChangedEntries(t *testing.T) {
	var table atomic.Int64
	cluster := sheepd.NewCluster(sheepd.Config{Shift: 20, Intercept: func(q *sheepd.Request) sheepd.Action {
		if q.Op == 3 && q.Object>>63 == 1 && q.Offset >= 4664 {
			table.Add(int64(len(q.Data)))
		}
		return sheepd.Action{}
	}})
	c := connect(t, cluster.Start(t).Address, 0)
	ctx := t.Context()
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: 64 * object}))
	v := open(t, c, sheepdog.Open{Name: "disk"})
	for _, i := range []int64{60, 3, 5, 30} {
		must(t, v.WriteAt(ctx, []byte("x"), i*object))
	}
	must(t, v.WriteAt(ctx, make([]byte, 3*object), 10*object))
	must(t, v.WriteAt(ctx, []byte("x"), 60*object))
	if n := table.Load(); n != 7*4 {
		t.Errorf("%d bytes of the table were written for 7 entries", n)
	}
	must(t, v.Close(ctx))
}

// TestErrors is about what cannot be opened or made.
func TestErrors(t *testing.T) {
	cluster := sheepd.NewCluster(sheepd.Config{Locks: true})
	s := cluster.Start(t)
	c := connect(t, s.Address, 0)
	ctx := t.Context()
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: object}))
	if err := c.Create(ctx, sheepdog.New{Name: "disk", Size: object}); !errors.Is(err, sheepdog.VDIExists) {
		t.Error(err)
	}
	v := open(t, c, sheepdog.Open{Name: "disk", Lock: true})
	for _, x := range []struct {
		o    sheepdog.Open
		want error
	}{
		{sheepdog.Open{Name: "no"}, sheepdog.NoVDI}, {sheepdog.Open{Name: "disk", Tag: "no"}, sheepdog.NoTag},
		{sheepdog.Open{Name: "disk", Snapshot: 7}, sheepdog.NoTag}, {sheepdog.Open{Name: "disk", Lock: true}, sheepdog.VDILocked},
	} {
		if _, err := c.Open(ctx, x.o); !errors.Is(err, x.want) {
			t.Errorf("%+v: %v", x.o, err)
		}
	}
	must(t, v.Close(ctx))
	number := cluster.Look("disk", 0, "").Number
	for name, x := range map[string]struct {
		off  int64
		to   byte
		want error
	}{
		"tree": {553, 1, sheepdog.ErrTree}, "shift": {555, 40, sheepdog.ErrProtocol}, "size": {543, 0x7f, sheepdog.ErrProtocol}, "number": {560, 0, sheepdog.ErrProtocol},
	} {
		t.Run(name, func(t *testing.T) {
			before := map[int64]byte{553: 0, 555: 22, 543: 0, 560: byte(number)}[x.off]
			cluster.Write(1<<63|uint64(number)<<32, []byte{x.to}, x.off)
			if _, err := c.Open(ctx, sheepdog.Open{Name: "disk", Lock: true}); !errors.Is(err, x.want) {
				t.Error(err)
			}
			cluster.Write(1<<63|uint64(number)<<32, []byte{before}, x.off)
			if n := cluster.Locks(); n > 0 {
				t.Errorf("%d locks are held", n)
			}
		})
	}
}

// TestStall: a server that does not answer any more is given up, and the next connection serves.
func TestStall(t *testing.T) {
	var forget atomic.Int32
	cluster := sheepd.NewCluster(sheepd.Config{Intercept: func(q *sheepd.Request) sheepd.Action {
		if q.Op == 2 && forget.Add(-1) >= 0 {
			return sheepd.Action{Do: sheepd.Forget}
		}
		return sheepd.Action{}
	}})
	address := cluster.Start(t).Address
	ctx := t.Context()
	client := func(reconnect time.Duration) *sheepdog.Client {
		c, err := sheepdog.Connect(ctx, sheepdog.Config{Reconnect: reconnect, Timeout: time.Second, Dial: func(ctx context.Context) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", address)
		}})
		must(t, err)
		t.Cleanup(c.Close)
		return c
	}
	// A busy machine may be silent for a second by itself: what is not repeated has more time.
	c := connect(t, address, time.Minute)
	must(t, c.Create(ctx, sheepdog.New{Name: "disk", Size: object}))
	v := open(t, c, sheepdog.Open{Name: "disk"})
	must(t, v.WriteAt(ctx, []byte("x"), 0))
	must(t, v.Close(ctx))
	v = open(t, client(time.Minute), sheepdog.Open{Name: "disk"})
	p := make([]byte, 1)
	forget.Store(2)
	must(t, v.ReadAt(ctx, p, 0))
	if p[0] != 'x' {
		t.Errorf("read %q", p)
	}
	v, err := client(0).Open(ctx, sheepdog.Open{Name: "disk"})
	for errors.Is(err, sheepdog.ErrTimeout) {
		v, err = client(0).Open(ctx, sheepdog.Open{Name: "disk"})
	}
	must(t, err)
	forget.Store(1)
	if err := v.ReadAt(ctx, p, 0); !errors.Is(err, sheepdog.ErrTimeout) || !errors.Is(err, sheepdog.ErrLost) {
		t.Error(err)
	}
	// One that is waited for ends with its context.
	forget.Store(1 << 20)
	c = client(time.Hour)
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := c.Open(short, sheepdog.Open{Name: "disk"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// TestNotReady: a cluster that begins or ends is waited for.
func TestNotReady(t *testing.T) {
	var not atomic.Int32
	cluster := sheepd.NewCluster(sheepd.Config{Intercept: func(q *sheepd.Request) sheepd.Action {
		if not.Add(-1) >= 0 {
			return sheepd.Action{Do: sheepd.Answer, Result: uint32(sheepdog.Halt)}
		}
		return sheepd.Action{}
	}})
	address := cluster.Start(t).Address
	c := connect(t, address, time.Minute)
	not.Store(3)
	must(t, c.Create(t.Context(), sheepdog.New{Name: "disk", Size: object}))
	not.Store(1)
	if err := connect(t, address, 0).Create(t.Context(), sheepdog.New{Name: "other", Size: object}); !errors.Is(err, sheepdog.Halt) {
		t.Error(err)
	}
}

// TestStallInData: a server that stops in the middle of what it sends is given up, too.
func TestStallInData(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		var all []net.Conn // one that nobody has any more is closed
		for {
			nc, err := l.Accept()
			if err != nil {
				runtime.KeepAlive(all)
				return
			}
			all = append(all, nc)
			h := make([]byte, 48)
			_, _ = io.ReadFull(nc, h)
			copy(h[12:], []byte{100, 0, 0, 0, 0, 0, 0, 0}) // bytes to come; success
			_, _ = nc.Write(h)
		}
	}()
	c, err := sheepdog.Connect(t.Context(), sheepdog.Config{Timeout: 50 * time.Millisecond, Dial: func(ctx context.Context) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}})
	must(t, err)
	t.Cleanup(c.Close)
	if _, err := c.Snapshots(t.Context(), "x"); !errors.Is(err, sheepdog.ErrTimeout) {
		t.Error(err)
	}
}
