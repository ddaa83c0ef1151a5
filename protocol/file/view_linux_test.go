package file

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/internal/zero"
)

// viewed makes a file with content of so many bytes.
func viewed(t *testing.T, size int) (*node, []byte) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	content := make([]byte, size)
	for i := range content {
		content[i] = byte(rnd.Uint32())
	}
	name := filepath.Join(t.TempDir(), "viewed")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	n, err := openNode(name, driver.Access{}, driver.Cache{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close(context.Background()) })
	return n, content
}

// TestViewTraced: what is looked at is not told as a read.
func TestViewTraced(t *testing.T) {
	n, _ := viewed(t, 10_000)
	var log strings.Builder
	trace.SetOutput(&log)
	trace.Set("file_*")
	defer func() { trace.Set("-*"); trace.SetOutput(os.Stderr) }()
	for _, length := range []int64{5000, 50_000} { // the second one is not there
		n.View(t.Context(), 1, length, func([]byte) {})
	}
	if log.String() != "file_view offset 1 bytes 5000\n" {
		t.Errorf("%q", &log)
	}
}

func TestView(t *testing.T) {
	const size = 300_000
	n, content := viewed(t, size)
	for _, r := range []struct {
		off, length int64
		want        bool
	}{
		{0, size, true}, {0, 1, true}, {1, 4095, true}, {4095, 2, true}, {4096, 4096, true}, {65_537, 200_000, true}, {size - 1, 1, true},
		{size - 1, 2, false}, {size, 1, false}, {-1, 10, false}, {1 << 62, 10, false},
	} {
		called := false
		got := n.View(t.Context(), r.off, r.length, func(p []byte) {
			called = true
			if !bytes.Equal(p, content[r.off:r.off+r.length]) {
				t.Errorf("%d bytes at %d: other bytes", r.length, r.off)
			}
		})
		if got != r.want || called != r.want {
			t.Errorf("%d bytes at %d: %t, called: %t", r.length, r.off, got, called)
		}
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if n.View(ended, 0, 10, func([]byte) {}) {
		t.Error("a view for a context that has ended")
	}
	direct, err := openNode(n.name, driver.Access{}, driver.Cache{Direct: true})
	if err != nil {
		t.Skip("no direct I/O here: ", err)
	}
	defer direct.Close(t.Context())
	if direct.View(t.Context(), 0, 4096, func([]byte) {}) {
		t.Error("a view of a file whose pages the system must not keep")
	}
}

// A file that is cut off while somebody looks ends the view, not the process.
func TestViewOfWhatGoesAway(t *testing.T) {
	n, _ := viewed(t, 1<<20)
	sum, passed := byte(0), false
	if n.View(t.Context(), 0, 1<<20, func(p []byte) {
		if err := os.Truncate(n.name, 4096); err != nil {
			t.Error(err)
		}
		sum += p[1<<20-1]
		passed = true
	}) || passed {
		t.Errorf("the bytes were seen: %d", sum)
	}
	if n.View(t.Context(), 0, 1<<20, func([]byte) {}) {
		t.Error("a view across the end of the file")
	}
}

// A panic of the caller's own is not taken for memory that went away.
func TestViewPanics(t *testing.T) {
	n, _ := viewed(t, 4096)
	var none *node
	for name, fail := range map[string]func(){"nil": func() { none.size.Add(1) }, "own": func() { panic("own") }} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: the panic is gone", name)
				}
			}()
			n.View(t.Context(), 0, 4096, func([]byte) { fail() })
		}()
	}
}

// Code that compares many bytes at a time ends as well when they go away.
func TestViewOfWhatGoesAwayAtOnce(t *testing.T) {
	n, content := viewed(t, 1<<20)
	for name, look := range map[string]func(p []byte) bool{
		"equal": func(p []byte) bool { return bytes.Equal(p, content[4096:]) },
		"zero":  zero.IsZero,
	} {
		passed := false
		if n.View(t.Context(), 0, 1<<20, func(p []byte) {
			if err := os.Truncate(n.name, 4096); err != nil {
				t.Error(err)
			}
			look(p[4096:])
			passed = true
		}) || passed {
			t.Errorf("%s: the bytes were seen", name)
		}
		if err := os.WriteFile(n.name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
