package server_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// pattern is something that is not zero.
var pattern = bytes.Repeat([]byte{0xa5, 0x3c}, 100)

var modes = []client.Mode{client.ModeSimple, client.ModeStructured, client.ModeExtended}

// each runs a test in every mode.
func each(t *testing.T, f func(t *testing.T, m client.Mode)) {
	for _, m := range modes {
		t.Run(m.String(), func(t *testing.T) { f(t, m) })
	}
}

// TestReadWrite moves bytes in requests of all sizes that are dealt with in ways of
// their own.
func TestReadWrite(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		dev := newMemory(40 << 20)
		_, sock := start(t, server.Config{}, &server.Export{Device: dev})
		c := dial(t, sock, mode(m))
		if got := c.Info().Mode; got != m {
			t.Fatalf("mode %v", got)
		}
		for _, n := range []int{0, 1, 512, 4096, 64 << 10, 64<<10 + 1, 512 << 10, 512<<10 + 1, 3 << 20, 20 << 20, 33 << 20} {
			if testkit.Race && n > 4<<20 && n != 20<<20 {
				continue
			}
			data := make([]byte, 0, n+256)
			for i := 0; len(data) < n; i++ {
				data = append(binary.BigEndian.AppendUint64(data, uint64(i)), pattern...)
			}
			data = data[:n]
			if n > 1<<20 {
				clear(data[512<<10 : 1<<20]) // a hole in the reply
			}
			for pass := range 20 { // the device shows that it is fast
				if n > 64<<10 && pass > 1 {
					break
				}
				if err := c.WriteAt(t.Context(), data, 12345, pass == 0); err != nil {
					t.Fatalf("write %d: %v", n, err)
				}
				got := bytes.Repeat([]byte{0xaa}, n)
				if err := c.ReadAt(t.Context(), got, 12345); err != nil {
					t.Fatalf("read %d: %v", n, err)
				}
				if !bytes.Equal(got, data) {
					t.Fatalf("%d bytes differ", n)
				}
			}
		}
		if dev.fuas.Load() == 0 || dev.flushes.Load() == 0 {
			t.Errorf("FUA %d, flushes %d", dev.fuas.Load(), dev.flushes.Load())
		}
	})
}

// TestCommands tries all that is neither read nor write.
func TestCommands(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		dev := newMemory(1 << 20)
		_, sock := start(t, server.Config{}, &server.Export{Device: dev})
		c := dial(t, sock, mode(m))
		ctx := t.Context()
		fill := func() {
			if err := c.WriteAt(ctx, bytes.Repeat([]byte{1}, 1<<20), 0, false); err != nil {
				t.Fatal(err)
			}
		}
		fill()
		if err := c.Trim(ctx, 0, 1<<20, true); err != nil || dev.at(0) != 0 || dev.flushes.Load() != 1 {
			t.Errorf("trim: %v", err)
		}
		fill()
		if err := c.WriteZeroes(ctx, 1, 9, client.ZeroOptions{NoHole: true}); err != nil || dev.at(1) != 0 || dev.at(10) != 1 {
			t.Errorf("zero: %v", err)
		}
		if f := server.ZeroFlags(dev.flags.Load()); f != server.ZeroNoHole {
			t.Errorf("flags %v", f)
		}
		if err := c.WriteZeroes(ctx, 1, 9, client.ZeroOptions{Fast: true}); !errors.Is(err, wire.ENOTSUP) {
			t.Errorf("fast zero: %v", err)
		}
		for name, err := range map[string]error{
			"cache": c.Cache(ctx, 0, 1<<20), "flush": c.Flush(ctx),
		} {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if err := c.ReadAt(ctx, make([]byte, 2), 1<<20-1); !errors.Is(err, wire.EINVAL) {
			t.Errorf("beyond the end: %v", err)
		}
	})
}

func TestReadErrors(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		dev := newMemory(24 << 20)
		_, sock := start(t, server.Config{}, &server.Export{Device: dev, ReadOnly: true})
		c := dial(t, sock, mode(m))
		dev.broken.Store(1 << 20)
		for range 20 {
			if err := c.ReadAt(t.Context(), make([]byte, 4096), 1<<20); !errors.Is(err, wire.EIO) {
				t.Fatal(err)
			}
			if err := c.ReadAt(t.Context(), make([]byte, 4096), 0); err != nil {
				t.Fatal(err)
			}
		}
		// The room for large replies is enough: the error is told.
		if err := c.ReadAt(t.Context(), make([]byte, 8<<20), 0); !errors.Is(err, wire.EIO) {
			t.Fatal(err)
		}
		err := c.ReadAt(t.Context(), make([]byte, 20<<20), 0)
		if m == client.ModeSimple {
			if !errors.Is(err, client.ErrLost) {
				t.Fatalf("the header said success: %v", err)
			}
		} else if !errors.Is(err, wire.EIO) || errors.Is(err, client.ErrLost) {
			t.Fatal(err)
		}
		c = dial(t, sock, mode(m))
		if err := c.WriteAt(t.Context(), make([]byte, 1), 0, false); !errors.Is(err, wire.EPERM) {
			t.Fatal(err)
		}
	})
}

// runs makes extents of pairs of length and flags.
func runs(pairs ...uint64) (e []wire.Extent) {
	for i := 0; i < len(pairs); i += 2 {
		e = append(e, wire.Extent{Length: pairs[i], Flags: pairs[i+1]})
	}
	return e
}

func TestBlockStatus(t *testing.T) {
	for _, m := range modes[1:] {
		dev := newMemory(1 << 20)
		dev.b[200<<10] = 1
		_, sock := start(t, server.Config{}, &server.Export{Device: dev})
		c := dial(t, sock, mode(m), contexts(wire.ContextAllocation, "x:halves", "x:none"))
		if got := c.Info().Contexts; !reflect.DeepEqual(got, []string{wire.ContextAllocation, "x:halves"}) {
			t.Fatalf("contexts %q", got)
		}
		ext := func(name string, off, n int64, one bool) []wire.Extent {
			e, err := c.BlockStatus(t.Context(), name, off, n, one)
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		if got, want := ext(wire.ContextAllocation, 0, 1<<20, false), runs(192<<10, 3, 64<<10, 0, 768<<10, 3); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if got, want := ext(wire.ContextAllocation, 1, 1<<19, true), runs(192<<10-1, 3); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
		if got, want := ext("x:halves", 1, 1<<20-1, false), runs(512<<10-1, 1, 512<<10, 2); !reflect.DeepEqual(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

// TestList lists several exports with their details.
func TestList(t *testing.T) {
	_, sock := start(t, server.Config{}, &server.Export{Name: "b", Device: newMemory(2)},
		&server.Export{Name: "a", Description: "the first", Device: newMemory(1), ReadOnly: true, MultiConn: true})
	each(t, func(t *testing.T, m client.Mode) {
		list, err := client.List(t.Context(), client.Config{Network: "unix", Address: sock, MaxMode: m})
		if err != nil || len(list) != 2 {
			t.Fatalf("%+v, %v", list, err)
		}
		a := list[0]
		if a.Name != "a" || a.Description != "the first" || a.Size != 1 || a.Flags&wire.FlagReadOnly == 0 || a.BlockSize.Preferred != 4096 {
			t.Errorf("%+v", a)
		}
		if (len(a.Contexts) == 2) != (m > client.ModeSimple) {
			t.Errorf("contexts %q", a.Contexts)
		}
	})
	_, err := client.Dial(t.Context(), client.Config{Network: "unix", Address: sock, Export: "c"})
	var oe *client.OptionError
	if !errors.As(err, &oe) || oe.Error() != "requested export not available" || oe.Message != "export 'c' not present" {
		t.Errorf("%v", err)
	}
}

// TestConcurrent has many goroutines read and write their own parts of one device
// over several connections, and checks every byte.
func TestConcurrent(t *testing.T) {
	dev := newMemory(16 << 20)
	s, sock := start(t, server.Config{}, &server.Export{Device: dev, MultiConn: true})
	var wg sync.WaitGroup
	for g := range 16 {
		c := dial(t, sock, mode(modes[g%3]))
		for h := range 4 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				r := rand.New(rand.NewPCG(uint64(g), uint64(h)))
				const part = 256 << 10
				base := int64(g*4+h) * part
				want := make([]byte, part)
				got := make([]byte, part)
				rounds := 150
				if testkit.Race {
					rounds = 40
				}
				for i := range rounds {
					off := r.IntN(part - 1)
					n := 1 + r.IntN(min(part-off, 1<<(4+r.IntN(14))))
					if i%2 == 0 {
						for k := range n {
							want[off+k] = byte(r.Uint32())
						}
						if err := c.WriteAt(context.Background(), want[off:off+n], base+int64(off), i%10 == 0); err != nil {
							t.Error(err)
							return
						}
						continue
					}
					if err := c.ReadAt(context.Background(), got[:n], base+int64(off)); err != nil {
						t.Error(err)
						return
					}
					if !bytes.Equal(got[:n], want[off:off+n]) {
						t.Errorf("goroutine %d/%d: %d bytes at %d differ", g, h, n, off)
						return
					}
				}
			}()
		}
	}
	wg.Wait()
	if s.Clients() != 16 {
		t.Errorf("%d clients", s.Clients())
	}
}

// TestOutOfOrder answers a later request first.
func TestOutOfOrder(t *testing.T) {
	dev := newMemory(1 << 20)
	dev.hold = make(chan struct{})
	_, sock := start(t, server.Config{}, &server.Export{Device: dev})
	c := dial(t, sock)
	slow := make(chan error, 1)
	go func() { slow <- c.ReadAt(context.Background(), make([]byte, 10), 0) }()
	// Needs no permission of the device.
	if err := c.Cache(t.Context(), 0, 10); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error, 1)
	go func() { cancelled <- c.ReadAt(ctx, make([]byte, 10), 10) }()
	cancel()
	if err := <-cancelled; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	select {
	case err := <-slow:
		t.Fatalf("answered too early: %v", err)
	default:
	}
	close(dev.hold)
	if err := <-slow; err != nil {
		t.Fatal(err)
	}
	if err := c.WriteAt(t.Context(), make([]byte, 100000), 0, false); err != nil {
		t.Fatal(err)
	}
}

// TestLimitOfClients lets the third client wait until one goes.
func TestLimitOfClients(t *testing.T) {
	gone := make(chan string, 10)
	_, sock := start(t, server.Config{MaxClients: 2, ClientGone: func(negotiated bool, left int) {
		gone <- fmt.Sprint(negotiated, left)
	}}, &server.Export{Device: newMemory(1)})
	a, _ := dial(t, sock), dial(t, sock)
	third := make(chan error, 1)
	go func() {
		c, err := client.Dial(context.Background(), client.Config{Network: "unix", Address: sock})
		if err == nil {
			err = c.ReadAt(context.Background(), make([]byte, 1), 0)
			c.Close()
		}
		third <- err
	}()
	select {
	case err := <-third:
		t.Fatalf("served: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	a.Close()
	if err := <-third; err != nil {
		t.Fatal(err)
	}
	if got := <-gone; got != "true 1" {
		t.Errorf("gone: %s", got)
	}
}

// TestShutdown answers what is under way and flushes.
func TestShutdown(t *testing.T) {
	dev := newMemory(1 << 20)
	dev.hold = make(chan struct{})
	s, sock := start(t, server.Config{}, &server.Export{Device: dev})
	c := dial(t, sock)
	wrote := make(chan error, 1)
	go func() { wrote <- c.WriteAt(context.Background(), []byte{7}, 5, false) }()
	dev.hold <- struct{}{} // the write has arrived
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(context.Background()) }()
	if err := <-wrote; err != nil {
		t.Fatalf("write under way: %v", err)
	}
	close(dev.hold)
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	if dev.at(5) != 7 || dev.flushes.Load() != 1 {
		t.Errorf("%d, %d flushes", dev.at(5), dev.flushes.Load())
	}
	<-c.Gone()
	if err := c.ReadAt(t.Context(), make([]byte, 1), 0); !errors.Is(err, client.ErrLost) {
		t.Error(err)
	}
}

// TestShutdownCutsOff ends a request that does not end by itself.
func TestShutdownCutsOff(t *testing.T) {
	dev := newMemory(1 << 20)
	dev.hold, dev.arrived = make(chan struct{}), make(chan struct{}, 1)
	s, sock := start(t, server.Config{}, &server.Export{Device: dev, ReadOnly: true})
	c := dial(t, sock)
	read := make(chan error, 1)
	go func() { read <- c.ReadAt(context.Background(), make([]byte, 1), 5) }()
	// An answer to a later request would not do: the read may be sent after that.
	<-dev.arrived
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if err := <-read; err == nil {
		t.Error("read succeeded")
	}
}

func TestRemoveExport(t *testing.T) {
	s, sock := start(t, server.Config{}, &server.Export{Name: "a", Device: newMemory(10)}, &server.Export{Name: "b", Device: newMemory(10)})
	name := func(n string) func(*client.Config) { return func(c *client.Config) { c.Export = n } }
	a, b := dial(t, sock, name("a")), dial(t, sock, name("b"))
	if err := s.RemoveExport(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	<-a.Gone()
	if err := b.ReadAt(t.Context(), make([]byte, 10), 0); err != nil {
		t.Error(err)
	}
	if err := s.RemoveExport(t.Context(), "a"); err == nil {
		t.Error("removed twice")
	}
	if err := s.AddExport(&server.Export{Name: "b", Device: newMemory(1)}); err == nil {
		t.Error("added twice")
	}
}

// crowd is a device whose reads return when n of them are under way.
type crowd struct {
	*memory
	n    int32
	in   atomic.Int32
	full chan struct{}
}

func (d *crowd) ReadAt(ctx context.Context, p []byte, off int64) error {
	if d.in.Add(1) == d.n {
		close(d.full)
	}
	select {
	case <-d.full:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// TestParallel checks that a device that is not known to be fast gets requests in
// parallel.
func TestParallel(t *testing.T) {
	dev := &crowd{memory: newMemory(1 << 20), n: 12, full: make(chan struct{})}
	_, sock := start(t, server.Config{Workers: 12}, &server.Export{Device: dev})
	c := dial(t, sock)
	errs := make(chan error)
	for i := range 12 {
		go func() { errs <- c.ReadAt(t.Context(), make([]byte, 512), int64(i)*512) }()
	}
	for range 12 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
}

// TestSuddenlySlow has a device that was fast hold a read and a write: other requests
// of the same connection go on, and replies gathered before are not held back.
func TestSuddenlySlow(t *testing.T) {
	each(t, func(t *testing.T, m client.Mode) {
		for _, n := range []int{512, 100 << 10, 1<<20 + 100<<10} {
			rounds := min(100, 30<<20/n)
			dev := &sudden{memory: newMemory(8 << 20), held: make(chan struct{}, 1), release: make(chan struct{}, 1)}
			_, sock := start(t, server.Config{}, &server.Export{Device: dev})
			c := dial(t, sock, mode(m))
			for _, write := range []bool{false, true} {
				p := bytes.Repeat([]byte{7}, n)
				for range 3 * rounds { // it is fast
					if err := c.WriteAt(t.Context(), p, 0, false); err != nil {
						t.Fatal(err)
					}
				}
				dev.hold.Store(true)
				slow := make(chan error, 1)
				go func() {
					q := bytes.Repeat([]byte{9}, n)
					if write {
						err := errors.Join(c.WriteAt(context.Background(), q, 0, false), c.ReadAt(context.Background(), p, 0))
						if err == nil && !bytes.Equal(p, q) {
							err = errors.New("wrong bytes written")
						}
						slow <- err
						return
					}
					err := c.ReadAt(context.Background(), q, 0)
					if err == nil && !bytes.Equal(p, q) {
						err = errors.New("wrong bytes")
					}
					slow <- err
				}()
				<-dev.held
				r := bytes.Repeat([]byte{8}, n)
				for range rounds {
					q := make([]byte, n)
					if err := errors.Join(c.WriteAt(t.Context(), r, 4<<20, false), c.ReadAt(t.Context(), q, 4<<20)); err != nil || !bytes.Equal(r, q) {
						t.Fatalf("others: %v", err)
					}
				}
				select {
				case err := <-slow:
					t.Fatalf("answered too early: %v", err)
				default:
				}
				dev.release <- struct{}{}
				if err := <-slow; err != nil {
					t.Fatal(err)
				}
			}
			// The client goes while its request hangs.
			for range 300 {
				if err := c.WriteAt(t.Context(), []byte{7}, 0, false); err != nil {
					t.Fatal(err)
				}
			}
			dev.hold.Store(true)
			go c.ReadAt(context.Background(), make([]byte, n), 0)
			<-dev.held
			c.Close()
			dev.release <- struct{}{}
		}
	})
}

// sudden is a device that holds the next request when it is told to.
type sudden struct {
	*memory
	hold    atomic.Bool
	held    chan struct{}
	release chan struct{}
}

func (d *sudden) stop(ctx context.Context) error {
	if !d.hold.CompareAndSwap(true, false) {
		return nil
	}
	d.held <- struct{}{}
	select {
	case <-d.release:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (d *sudden) ReadAt(ctx context.Context, p []byte, off int64) error {
	return errors.Join(d.stop(ctx), d.memory.ReadAt(ctx, p, off))
}

func (d *sudden) WriteAt(ctx context.Context, p []byte, off int64, fua bool) error {
	return errors.Join(d.stop(ctx), d.memory.WriteAt(ctx, p, off, fua))
}
