package qcow2_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestAllocateContiguous writes across the border of two L2 tables.
func TestAllocateContiguous(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	create(t, path, 2<<30)
	img := openImage(t, path, true)
	f := img.Tree().Node().(driver.Allocator)
	const table = 512 << 20 // what an L2 table maps
	w, err := f.Allocate(ctx, table-1<<20, 2<<20)
	if err != nil {
		t.Fatal(err)
	}
	if w.Length != 2<<20 || !w.ZeroFilled || w.Head != 0 || w.Tail != 0 || w.Pending == nil {
		t.Fatalf("%+v", w)
	}
	// The range is pending: another writer waits, and gives up with its context.
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := f.Allocate(gone, table, 4096); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	// What is not committed is not there.
	if x, err := f.Map(ctx, table, 4096); err != nil || x.Kind != driver.ExtentUnallocated {
		t.Fatalf("%+v %v", x, err)
	}
	next := make(chan driver.WriteTarget)
	go func() {
		w, err := f.Allocate(ctx, table+4096, 4096)
		if err != nil {
			t.Error(err)
		}
		next <- w
	}()
	if _, err := w.Child.WriteAt(ctx, make([]byte, w.Length), w.HostOffset); err != nil {
		t.Fatal(err)
	}
	if err := w.Pending.Commit(ctx); err != nil {
		t.Fatal(err)
	}
	if second := <-next; second.Pending != nil || second.HostOffset != w.HostOffset+1<<20+4096 {
		t.Fatalf("%+v after %+v", second, w)
	}
	// One extent, although two tables say so.
	if x, err := f.Map(ctx, table-1<<20, 2<<20); err != nil || x.Kind != driver.ExtentData || x.Length != 2<<20 || x.HostOffset != w.HostOffset {
		t.Fatalf("%+v %v", x, err)
	}
	// Room given back is used again, and is not taken for untouched.
	w, err = f.Allocate(ctx, 1<<30, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	w.Pending.Abort(ctx)
	again, err := f.Allocate(ctx, 1<<30, 1<<20)
	if err != nil || again.HostOffset != w.HostOffset || again.ZeroFilled {
		t.Fatalf("%+v after %+v, %v", again, w, err)
	}
	again.Pending.Abort(ctx)
	closeImage(t, img)
	checkClean(t, path)
}

// TestEdges asks for the copy-on-write edges of small writes.
func TestEdges(t *testing.T) {
	ctx := context.Background()
	for _, c := range []struct {
		name       string
		options    []string
		prepare    []string
		off, n     int64
		head, tail int64
		pending    bool
	}{
		{"cluster", nil, nil, 65536 + 4096, 4096, 4096, 65536 - 8192, true},
		{"whole cluster", nil, nil, 65536, 65536, 0, 0, true},
		{"two clusters", nil, nil, 65536 + 512, 65536, 512, 65536 - 512, true},
		{"in place", nil, []string{"write 64k 64k"}, 65536 + 512, 512, 0, 0, false},
		{"zero cluster with room", nil, []string{"write 64k 64k", "write -z 64k 64k"}, 65536 + 512, 512, 512, 65536 - 1024, true},
		{"zero cluster with room among others", nil, []string{"write 64k 192k", "write -z 128k 64k"}, 65536 + 512, 3*65536 - 1024, 0, 0, true},
		{"zero cluster with room behind another", nil, []string{"write 64k 128k", "write -z 128k 64k"}, 65536 + 512, 65536, 0, 65536 - 512, true},
		{"subclusters in place and others", []string{"extended_l2=on"}, []string{"write 64k 64k", "write 128k 2k"}, 2*65536 - 4096, 8192 + 512, 0, 2048 - 512, true},
		{"subcluster", []string{"extended_l2=on"}, nil, 65536 + 512, 512, 512, 1024, true},
		{"next subcluster", []string{"extended_l2=on"}, []string{"write 64k 2k"}, 65536 + 512, 4096, 0, 2048 - 512, true},
		{"subclusters in place", []string{"extended_l2=on"}, []string{"write 64k 4k"}, 65536 + 512, 2048, 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.qcow2")
			create(t, path, 1<<20, c.options...)
			if c.prepare != nil {
				qemuIO(t, path, c.prepare...)
			}
			img := openImage(t, path, true)
			w, err := img.Tree().Node().(driver.Allocator).Allocate(ctx, c.off, c.n)
			if err != nil || w.Length != c.n || w.Head != c.head || w.Tail != c.tail || (w.Pending != nil) != c.pending {
				t.Fatalf("%+v %v, want edges %d and %d", w, err, c.head, c.tail)
			}
			if w.Pending != nil {
				w.Pending.Abort(ctx)
			}
			closeImage(t, img)
			checkClean(t, path)
		})
	}
}

// TestPassDiscard counts the discards that reach the file.
func TestPassDiscard(t *testing.T) {
	ctx := context.Background()
	for _, pass := range []string{"on", "off"} {
		memory := mem.New().(*mem.Driver)
		reg := block.NewRegistry(qcow2.New(), memory)
		if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:a", Format: "qcow2", Size: 8 << 20, Options: opts.Dict{}, Gate: driver.AllowAll}); err != nil {
			t.Fatal(err)
		}
		img, err := block.Open(ctx, reg, block.Source{Filename: "mem:a", Format: "qcow2", Options: opts.Dict{"pass-discard-request": pass}}, openOpts(true))
		if err != nil {
			t.Fatal(err)
		}
		p := make([]byte, 4<<20)
		testkit.Fill(testkit.Rand(1), p)
		if _, err := img.WriteAt(ctx, p, 0); err != nil {
			t.Fatal(err)
		}
		var discarded int64
		memory.Disk("a").SetHook(func(op mem.Op, _, n int64) error {
			if op == mem.OpDiscard {
				discarded += n
			}
			return nil
		})
		if err := img.Discard(ctx, 0, 2<<20); err != nil {
			t.Fatal(err)
		}
		if discarded != 0 {
			t.Fatal("the file was told before the mapping was durable")
		}
		if err := img.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if err := img.Flush(ctx); err != nil {
			t.Fatal(err)
		}
		if want := map[string]int64{"on": 2 << 20, "off": 0}[pass]; discarded != want {
			t.Fatalf("%s: %d bytes discarded, want %d", pass, discarded, want)
		}
		got := make([]byte, 4<<20)
		if _, err := img.ReadAt(ctx, got, 0); err != nil || !bytes.Equal(got[2<<20:], p[2<<20:]) || len(bytes.Trim(got[:2<<20], "\x00")) != 0 {
			t.Fatal("content differs after discard", err)
		}
		if err := img.Close(ctx); err != nil {
			t.Fatal(err)
		}
	}
}
