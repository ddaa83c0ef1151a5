package blkdebug_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// TestBreak: a breakpoint holds one request, others go on, and the one goes on when it is
// told to.
func TestBreak(t *testing.T) {
	img := open(t, opts.Dict{})
	b, ok := block.Ability[driver.Breaker](img.Tree().File())
	if !ok {
		t.Fatal("the filter has no breakpoints")
	}
	var mu sync.Mutex
	var said []string
	report := func(text string) {
		mu.Lock()
		defer mu.Unlock()
		said = append(said, text)
	}
	if err := b.Break("no such event", "A", report); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("an event that there is not: %v", err)
	}
	if err := b.Resume("A"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("nothing is held: %v", err)
	}
	if err := b.Break("write_aio", "A", report); err != nil {
		t.Fatal(err)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := img.WriteAt(context.Background(), []byte{1}, 0)
		wrote <- err
	}()
	if err := b.WaitBreak(t.Context(), "A"); err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(t.Context(), []byte{2}, 1<<19); err != nil {
		t.Fatal(err) // the breakpoint is used up
	}
	select {
	case err := <-wrote:
		t.Fatalf("the request that is held is done: %v", err)
	default:
	}
	if err := b.Resume("A"); err != nil {
		t.Fatal(err)
	}
	if err := <-wrote; err != nil {
		t.Fatal(err)
	}
	if want := []string{"blkdebug: Suspended request 'A'", "blkdebug: Resuming request 'A'"}; !slices.Equal(said, want) {
		t.Errorf("said %q", said)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.WaitBreak(ended, "A"); !errors.Is(err, context.Canceled) {
		t.Errorf("waiting for what does not come: %v", err)
	}
}

// TestRemoveBreak: what a breakpoint holds goes on when it is removed, and when all are
// released.
func TestRemoveBreak(t *testing.T) {
	img := open(t, opts.Dict{})
	b, _ := block.Ability[driver.Breaker](img.Tree().File())
	quiet := func(string) {}
	for _, let := range []func(){func() {
		if err := b.RemoveBreak("A"); err != nil {
			t.Error(err)
		}
	}, b.Release} {
		if err := b.Break("read_aio", "A", quiet); err != nil {
			t.Fatal(err)
		}
		read := make(chan error, 1)
		go func() {
			_, err := img.ReadAt(context.Background(), make([]byte, 1), 0)
			read <- err
		}()
		if err := b.WaitBreak(t.Context(), "A"); err != nil {
			t.Fatal(err)
		}
		let()
		if err := <-read; err != nil {
			t.Fatal(err)
		}
	}
	if err := b.RemoveBreak("A"); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("there is none any more: %v", err)
	}
}
