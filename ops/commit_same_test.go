package ops_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// overlay makes an image of size bytes with what it reads as, and an overlay over it
// in which change is called on each whole cluster. It returns the overlay, which is
// opened with its base for writing, and what the overlay reads as.
func (w *world) overlay(format string, size int64, change func(i int, p []byte)) (*block.Image, []byte) {
	w.t.Helper()
	ctx := w.t.Context()
	want := make([]byte, size)
	for i := range want {
		want[i] = byte(i>>12) | 1
	}
	base := w.create("base", format, size, nil)
	if _, err := base.WriteAt(ctx, want, 0); err != nil {
		w.t.Fatal(err)
	}
	if err := base.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
	top := w.create("top", "qcow2", size, opts.Dict{"backing_file": "mem:base", "backing_fmt": format})
	const cluster = 64 << 10
	for i := 0; i < len(want)/cluster; i++ {
		p := want[i*cluster:][:cluster]
		change(i, p)
		if _, err := top.WriteAt(ctx, p, int64(i*cluster)); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := top.Close(ctx); err != nil {
		w.t.Fatal(err)
	}
	img, err := block.Open(ctx, w.reg, block.Source{Filename: "mem:top", Format: "qcow2"},
		block.OpenOptions{Write: true, Chain: block.ChainUse{WriteBacking: true}, Gate: driver.AllowAll})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { img.Close(context.Background()) })
	return img, want
}

// TestCommitLeavesOutWhatTheBaseHas counts what a commit of clusters writes that
// differ from the base in one page each, in two pages close to each other, or wholly;
// and with a base that cannot be read, or holds a bitmap.
func TestCommitLeavesOutWhatTheBaseHas(t *testing.T) {
	const size, cluster, page = 8 << 20, 64 << 10, 4 << 10
	change := func(i int, p []byte) { p[i%16*page+i] ^= 0x80 }
	broken := errors.New("the medium is broken")
	for name, c := range map[string]struct {
		format string
		change func(i int, p []byte)
		read   error // of the base, while the overlay is committed
		bitmap bool
		most   int64 // bytes of data written
		least  int64
	}{
		"nothing":       {"raw", func(int, []byte) {}, nil, false, 0, 0},
		"a page each":   {"raw", change, nil, false, size / 16, size / 16},
		"qcow2":         {"qcow2", change, nil, false, size/16 + 10*cluster, size / 16},
		"pages close":   {"raw", func(_ int, p []byte) { p[0] ^= 0x80; p[3*page] ^= 0x80 }, nil, false, size / 4, size / 4},
		"everything":    {"raw", func(_ int, p []byte) { testkit.Fill(testkit.Rand(1), p) }, nil, false, size, size},
		"base unread":   {"raw", change, broken, false, size, size},
		"base, tracked": {"qcow2", change, nil, true, size + 10*cluster, size},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img, want := w.overlay(c.format, size, c.change)
			base := img.Backing()
			if c.bitmap {
				if err := base.Bitmaps().Add(t.Context(), driver.BitmapSpec{Name: "b"}); err != nil {
					t.Fatal(err)
				}
			}
			var written atomic.Int64
			w.mem.Disk("base").SetHook(func(op mem.Op, _, n int64) error {
				switch op {
				case mem.OpWrite:
					written.Add(n)
				case mem.OpRead:
					return c.read
				}
				return nil
			})
			if err := ops.Commit(t.Context(), ops.CommitJob{Top: img, Base: base}); err != nil {
				t.Fatal(err)
			}
			w.mem.Disk("base").SetHook(nil)
			got := make([]byte, size)
			if _, err := base.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
				t.Fatalf("the base has other contents (error: %v)", err)
			}
			if n := written.Load(); n > c.most || n < c.least {
				t.Errorf("%d bytes were written, want %d to %d", n, c.least, c.most)
			}
		})
	}
}

// TestCommitOfPartsThatFail: what the base does not take is an error, also
// where only a part of a cluster is written.
func TestCommitOfPartsThatFail(t *testing.T) {
	// The cluster in the middle, and its page that was changed.
	const size, at = 1 << 20, 8<<16 + 8<<12
	w := newWorld(t)
	img, _ := w.overlay("raw", size, func(i int, p []byte) { p[i%16<<12] ^= 0x80 })
	full := errors.New("no room")
	w.mem.Disk("base").SetHook(func(op mem.Op, off, n int64) error {
		if op == mem.OpWrite && off <= at && at < off+n {
			return full
		}
		return nil
	})
	want := make([]byte, size)
	if _, err := img.ReadAt(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	if err := ops.Commit(t.Context(), ops.CommitJob{Top: img, Base: img.Backing()}); !errors.Is(err, full) {
		t.Fatal(err)
	}
	w.mem.Disk("base").SetHook(nil)
	got := make([]byte, size)
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the overlay lost contents (error: %v)", err)
	}
}
