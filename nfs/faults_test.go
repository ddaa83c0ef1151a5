package nfs_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nfs"
)

// write writes at the start of a file and waits until that is durable.
func write(ctx context.Context, f *nfs.File, p []byte) error {
	if err := f.WriteAt(ctx, p, 0); err != nil {
		return err
	}
	return f.Sync(ctx)
}

// TestWriteFails: a write that fails although nobody waits for it fails the next ones and
// Sync, until it can be done; reads have it all the time.
func TestWriteFails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var full atomic.Bool
	full.Store(true)
	s.faults(func(proc uint32) fault {
		if proc == procWrite && full.Load() {
			return fault{status: statusNoSpc}
		}
		return fault{}
	})
	_, f := s.mount(t)
	if err := write(t.Context(), f, []byte("data")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v", err)
	}
	if err := f.WriteAt(t.Context(), []byte("more"), 10); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("the next write: %v", err)
	}
	got := make([]byte, 4)
	if _, err := f.ReadAt(t.Context(), got, 0); err != nil || string(got) != "data" {
		t.Errorf("%q %v", got, err)
	}
	full.Store(false)
	if err := f.Sync(t.Context()); err != nil {
		t.Error(err)
	}
	if got := s.durable("disk"); string(got) != "data" {
		t.Errorf("%q", got)
	}
	if err := write(t.Context(), f, []byte("DATA")); err != nil {
		t.Error(err)
	}
}

// TestRestart: what a server loses with a restart is written again, in its order; a change
// of the verifier alone counts as one.
func TestRestart(t *testing.T) {
	t.Parallel()
	const seed = 7
	r := rand.New(rand.NewPCG(seed, seed))
	s := newServer(t)
	s.config.Timeout = time.Minute
	_, f := s.mount(t)
	const size = 1 << 20
	model := make([]byte, size)
	if err := f.Resize(t.Context(), size); err != nil {
		t.Fatal(err)
	}
	check := func(step int) {
		t.Helper()
		if err := f.Sync(t.Context()); err != nil {
			t.Fatalf("step %d: %v", step, err)
		}
		if !bytes.Equal(s.durable("disk"), model) {
			t.Fatalf("step %d: something is lost", step)
		}
	}
	for step := range testkit.Count(400) {
		switch r.IntN(12) {
		case 0:
			s.restart()
		case 1:
			s.mu.Lock()
			s.lose()
			s.mu.Unlock()
		case 2:
			check(step)
		case 3:
			n := int64(size - r.IntN(size/2))
			if err := f.Resize(t.Context(), n); err != nil {
				t.Fatal(err)
			}
			if err := f.Resize(t.Context(), size); err != nil {
				t.Fatal(err)
			}
			clear(model[n:])
		case 4: // a read sees what was written, whatever the server has lost
			off := r.IntN(size)
			p := make([]byte, r.IntN(size-off)+1)
			n, err := f.ReadAt(t.Context(), p, int64(off))
			if err != nil && n < len(p) || !bytes.Equal(p, model[off:off+len(p)]) {
				t.Fatalf("step %d: another content at %d (%d bytes of %d, %v)", step, off, n, len(p), err)
			}
		default:
			off := r.IntN(size)
			p := make([]byte, r.IntN(min(size-off, 200<<10))+1)
			for i := range p {
				p[i] = byte(step + i)
			}
			if err := f.WriteAt(t.Context(), p, int64(off)); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			copy(model[off:], p)
		}
	}
	check(-1)
}

// TestLoose: what is written loosely is not committed before somebody asks for it, and a restart that
// may have lost some of it is an error.
func TestLoose(t *testing.T) {
	t.Parallel()
	const commit = 21
	s := newServer(t)
	_, f := s.mount(t)
	f.Loosely(1 << 30)
	p := bytes.Repeat([]byte{7}, 1<<20)
	const size = 40 << 20
	for off := int64(0); off < size; off += int64(len(p)) {
		if err := f.WriteAt(t.Context(), p, off); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	commits := s.calls[commit]
	s.mu.Unlock()
	if commits > 0 {
		t.Errorf("%d commits", commits)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.durable("disk"), bytes.Repeat([]byte{7}, size)) {
		t.Error("something is lost")
	}
	s.restart() // nothing is lost
	if err := write(t.Context(), f, []byte("before")); err != nil {
		t.Fatal(err)
	}
	writes := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.calls[7]
	}
	before := writes()
	if err := f.WriteAt(t.Context(), []byte("lost"), 100); err != nil {
		t.Fatal(err)
	}
	for writes() == before { // it is on its way
		time.Sleep(time.Millisecond)
	}
	s.restart()
	var failed error
	for range 3 { // writes are not waited for
		failed = errors.Join(failed, write(t.Context(), f, []byte("after")), f.Sync(t.Context()))
	}
	if failed == nil || !strings.Contains(failed.Error(), "the server was restarted") {
		t.Errorf("after a restart: %v", failed)
	}
}

// TestTighten: of a file that is written loosely, what comes after the first bytes is kept, and
// written again after a restart.
func TestTighten(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, f := s.mount(t)
	const most = 4 << 20
	f.Loosely(most)
	want := make([]byte, 3*most)
	for i := range want {
		want[i] = byte(i / 1000)
	}
	part := func(from, to int) {
		t.Helper()
		if err := f.WriteAt(t.Context(), want[from:to], int64(from)); err != nil {
			t.Fatal(err)
		}
	}
	// More than is loose is under way at once, from several callers.
	var writers sync.WaitGroup
	for from := 0; from < 2*most; from += most / 4 {
		writers.Go(func() { part(from, from+most/4) })
	}
	writers.Wait()
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	for from := 2 * most; from < 3*most; from += most / 4 {
		s.mu.Lock()
		before := s.calls[procWrite]
		s.mu.Unlock()
		part(from, from+most/4)
		for done := false; !done; time.Sleep(time.Millisecond) { // until some of it is there
			s.mu.Lock()
			done = s.calls[procWrite] > before
			s.mu.Unlock()
		}
		s.restart()
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.durable("disk"), want) {
		t.Error("something is lost")
	}
}

// TestKeptIsBounded: a file that is written without being flushed is committed all the
// same, and then a flush has little to do.
func TestKeptIsBounded(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, f := s.mount(t)
	p := make([]byte, 1<<20)
	for i := range int64(80) {
		if err := f.WriteAt(t.Context(), p, i%4<<20); err != nil {
			t.Fatal(err)
		}
	}
	s.mu.Lock()
	commits := s.calls[procCommit]
	s.mu.Unlock()
	if commits < 1 {
		t.Errorf("%d commits", commits)
	}
}

// TestCommitFails: after a commit that fails, everything is written again, although the
// verifier stays.
func TestCommitFails(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	_, f := s.mount(t)
	if err := f.WriteAt(t.Context(), []byte("data"), 0); err != nil {
		t.Fatal(err)
	}
	var full atomic.Bool
	full.Store(true)
	s.faults(func(proc uint32) fault {
		if proc == procCommit && full.Load() {
			return fault{status: statusNoSpc}
		}
		return fault{}
	})
	if err := f.Sync(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v", err)
	}
	full.Store(false)
	s.mu.Lock()
	s.files["disk"].now = nil // it dropped what it could not write
	s.mu.Unlock()
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.durable("disk"); string(got) != "data" {
		t.Errorf("%q", got)
	}
}

// TestPatience: a server that asks for patience is asked again, within a bound.
func TestPatience(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.config.Timeout = 300 * time.Millisecond
	var left atomic.Int64
	left.Store(3)
	s.faults(func(uint32) fault {
		if left.Add(-1) >= 0 {
			return fault{status: statusJukebox}
		}
		return fault{}
	})
	_, f := s.mount(t)
	left.Store(3)
	if err := write(t.Context(), f, []byte("x")); err != nil {
		t.Fatal(err)
	}
	left.Store(1 << 40)
	err := write(t.Context(), f, []byte("x"))
	var status *nfs.StatusError
	if !errors.As(err, &status) || status.Name() != "NFS3ERR_JUKEBOX" || !strings.Contains(err.Error(), "patience") {
		t.Errorf("%v", err)
	}
}

// TestAnswersLost: what was executed is not done twice, nor taken for an error, although its answer was
// lost.
func TestAnswersLost(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var seen sync.Map
	s.faults(func(proc uint32) fault {
		_, again := seen.LoadOrStore(proc, true)
		return fault{breakAfter: !again}
	})
	c, f := s.mount(t) // the creation is sent twice, and is one of a new file
	if err := f.WriteAt(t.Context(), []byte("some text"), 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := s.durable("disk"); string(got) != "some text" {
		t.Errorf("%q", got)
	}
	if err := c.Remove(t.Context(), "disk"); err != nil {
		t.Errorf("removing: %v", err)
	}
	if err := c.Remove(t.Context(), "disk"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removing again: %v", err)
	}
	if err := write(t.Context(), f, []byte("x")); err == nil || !strings.Contains(err.Error(), "NFS3ERR_STALE: the file was removed") {
		t.Errorf("a file that is gone: %v", err)
	}
}

// TestResets: connections that break at random are made again.
func TestResets(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var calls atomic.Int64
	s.faults(func(uint32) fault {
		n := calls.Add(1)
		return fault{breakBefore: n%7 == 0, breakAfter: n%5 == 0}
	})
	_, f := s.mount(t)
	want := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	if err := f.WriteAt(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(t.Context()); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := f.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatal("another content", err)
	}
	if !bytes.Equal(s.durable("disk"), want) {
		t.Error("another content on the server")
	}
}

// TestSilence: a server that does not answer is given up after the time-out, and at once
// with the context.
func TestSilence(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.config.Timeout = 2 * time.Second
	_, f := s.mount(t)
	s.faults(func(uint32) fault { return fault{silent: true} })
	calls := map[string]func(context.Context) error{
		"read":   func(ctx context.Context) error { _, err := f.ReadAt(ctx, make([]byte, 100), 0); return err },
		"write":  func(ctx context.Context) error { return write(ctx, f, make([]byte, 1<<20)) },
		"resize": func(ctx context.Context) error { return f.Resize(ctx, 5) },
	}
	for _, name := range []string{"read", "resize", "write"} {
		call := calls[name]
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		if err := call(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if err := call(t.Context()); !errors.Is(err, syscall.ETIMEDOUT) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n := runtime.NumGoroutine(); n > 100 {
		t.Errorf("%d goroutines", n)
	}
}

// TestGone: a server that is not there is told at once when a directory is mounted, and
// waited for later.
func TestGone(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.config.Timeout = 2 * time.Second
	_, f := s.mount(t)
	s.Close()
	s.hangUp()
	if _, err := nfs.Mount(t.Context(), s.config, "/"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
	if err := write(t.Context(), f, []byte("x")); !errors.Is(err, syscall.ETIMEDOUT) || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%v", err)
	}
}
