package ops_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// world is a registry whose disks are in memory.
type world struct {
	t   *testing.T
	reg *block.Registry
	mem *mem.Driver
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	list := drivers.All()
	for _, d := range list {
		if m, ok := d.(*mem.Driver); ok {
			w.mem = m
		}
	}
	w.reg = block.NewRegistry(list...)
	return w
}

// create makes an image and opens it for writing.
func (w *world) create(name, format string, size int64, o opts.Dict) *block.Image {
	w.t.Helper()
	if err := block.Create(w.t.Context(), w.reg, block.CreateRequest{Filename: "mem:" + name, Format: format, Size: size, Options: o, Gate: driver.AllowAll}); err != nil {
		w.t.Fatal(err)
	}
	return w.open(name, format, true)
}

func (w *world) open(name, format string, write bool) *block.Image {
	w.t.Helper()
	img, err := block.Open(w.t.Context(), w.reg, block.Source{Filename: "mem:" + name, Format: format},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { img.Close(context.Background()) })
	return img
}

// fill writes content that is part data, part zeroes, part holes, and returns it.
func (w *world) fill(img *block.Image, seed uint64) []byte {
	w.t.Helper()
	r := testkit.Rand(seed)
	want := make([]byte, img.Size())
	for range 40 {
		off := r.Int64N(img.Size())
		n := min(1+r.Int64N(300<<10), img.Size()-off)
		p := want[off : off+n]
		if r.IntN(4) == 0 {
			clear(p)
		} else {
			testkit.Fill(r, p)
		}
		if _, err := img.WriteAt(w.t.Context(), p, off); err != nil {
			w.t.Fatal(err)
		}
	}
	return want
}

func (w *world) expect(img *block.Image, want []byte) {
	w.t.Helper()
	got, err := io.ReadAll(img.Reader(w.t.Context()))
	if err != nil {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				w.t.Fatalf("byte %d differs: %#x, want %#x", i, got[i], want[i])
			}
		}
	}
}

func TestConvert(t *testing.T) {
	const size = 9<<20 + 512
	for _, c := range []struct {
		name       string
		from, to   string
		fromO, toO opts.Dict
		job        ops.ConvertJob
		dirty      bool // the target holds something already
	}{
		{name: "raw to raw", from: "raw", to: "raw", job: ops.ConvertJob{Sparse: 4096}},
		{name: "raw to qcow2", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096}},
		{name: "qcow2 to raw", from: "qcow2", to: "raw", job: ops.ConvertJob{Sparse: 4096}},
		{name: "out of order, many workers", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096, OutOfOrder: true, Workers: 16}},
		{name: "one worker", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096, Workers: 1}},
		{name: "no search for zeroes", from: "raw", to: "qcow2"},
		{name: "large sparse size", from: "raw", to: "raw", job: ops.ConvertJob{Sparse: 1 << 20}},
		{name: "zlib", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096, Compress: true}},
		{name: "zstd", from: "raw", to: "qcow2", toO: opts.Dict{"compression_type": "zstd"}, job: ops.ConvertJob{Sparse: 4096, Compress: true, Workers: 5}},
		{name: "2 MiB clusters", from: "qcow2", to: "qcow2", fromO: opts.Dict{"cluster_size": "512"}, toO: opts.Dict{"cluster_size": "2M"}, job: ops.ConvertJob{Sparse: 4096}},
		{name: "subclusters", from: "raw", to: "qcow2", toO: opts.Dict{"extended_l2": "on", "cluster_size": "128k"}, job: ops.ConvertJob{Sparse: 4096}},
		{name: "over old content, raw", from: "raw", to: "raw", job: ops.ConvertJob{Sparse: 4096}, dirty: true},
		{name: "over old content, qcow2", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096}, dirty: true},
		{name: "over old content, compressed", from: "raw", to: "qcow2", job: ops.ConvertJob{Sparse: 4096, Compress: true}, dirty: true},
		{name: "over old content, no search", from: "raw", to: "qcow2", dirty: true},
		{name: "copy offloading refused by memory", from: "raw", to: "raw", job: ops.ConvertJob{CopyRange: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			src := w.create("src", c.from, size, c.fromO)
			want := w.fill(src, 1)
			dst := w.create("dst", c.to, size, c.toO)
			if c.dirty {
				w.fill(dst, 2)
			}
			h := sha256.New()
			job := c.job
			job.Sources, job.Target, job.TargetZero, job.Checksum = []*block.Image{src}, dst, !c.dirty, h
			last, total := int64(-1), int64(0)
			job.Progress = func(p ops.Progress) {
				if p.Done < last || p.Done > p.Total {
					t.Errorf("progress went from %d to %d of %d", last, p.Done, p.Total)
				}
				last, total = p.Done, p.Total
			}
			res, err := ops.Convert(t.Context(), job)
			if err != nil {
				t.Fatal(err)
			}
			w.expect(dst, want)
			if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
				t.Error("the checksum is not that of the content")
			}
			if n := res.Copied + res.Zero + res.Reflinked + res.Skipped; n != size {
				t.Errorf("%+v accounts for %d bytes of %d", res, n, size)
			}
			if last != total || total > size {
				t.Errorf("progress ended at %d of %d, the disk has %d", last, total, size)
			}
			if err := dst.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if ch, ok := dst.Tree().Node().(driver.Checker); ok {
				r, err := ch.Check(t.Context(), driver.CheckFix{}, nil, nil)
				if err != nil || r.Corruptions+r.Leaks+r.CheckErrors != 0 {
					t.Errorf("check: %+v, %v", r, err)
				}
			}
			r, err := ops.Compare(t.Context(), src, dst, ops.CompareOptions{})
			if err != nil || r.Difference != ops.Same {
				t.Errorf("compare: %+v, %v", r, err)
			}
		})
	}
}

// TestConvertInOrder checks that several workers lay the data out in the order of
// the disk, so that reading the file forward reads the disk forward.
func TestConvertInOrder(t *testing.T) {
	w := newWorld(t)
	src := w.create("src", "raw", 64<<20, nil)
	p := make([]byte, 64<<20)
	testkit.Fill(testkit.Rand(1), p)
	if _, err := src.WriteAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	dst := w.create("dst", "qcow2", 64<<20, nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, Sparse: 4096, TargetZero: true, Workers: 8}); err != nil {
		t.Fatal(err)
	}
	prev := int64(-1)
	for off := int64(0); off < dst.Size(); {
		st, err := dst.StatusLayer(t.Context(), off, dst.Size()-off)
		if err != nil {
			t.Fatal(err)
		}
		if st.HasOffset && st.Offset < prev {
			t.Fatalf("guest offset %d lies at %d, before %d", off, st.Offset, prev)
		}
		prev = st.Offset
		off += st.Length
	}
}

func TestConvertConcat(t *testing.T) {
	w := newWorld(t)
	var sources []*block.Image
	var want []byte
	for i, size := range []int64{3 << 20, 512, 0, 2<<20 + 1024} {
		img := w.create(fmt.Sprint("src", i), "raw", size, nil)
		if size > 0 {
			want = append(want, w.fill(img, uint64(i))...)
		}
		sources = append(sources, img)
	}
	dst := w.create("dst", "qcow2", int64(len(want)), nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: sources, Target: dst, Sparse: 4096, TargetZero: true}); err != nil {
		t.Fatal(err)
	}
	w.expect(dst, want)
}

// TestConvertOntoBacking copies only what the overlay holds.
func TestConvertOntoBacking(t *testing.T) {
	w := newWorld(t)
	base := w.create("base", "raw", 4<<20, nil)
	content := w.fill(base, 1)
	overlay := func(name string) *block.Image {
		return w.create(name, "qcow2", 5<<20, opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw"})
	}
	src := overlay("src")
	want := append(bytes.Clone(content), make([]byte, 1<<20)...)
	copy(want[100_000:], bytes.Repeat([]byte("x"), 70_000))
	if _, err := src.WriteAt(t.Context(), want[100_000:170_000], 100_000); err != nil {
		t.Fatal(err)
	}
	clear(want[1<<20 : 2<<20])
	if err := src.WriteZeroes(t.Context(), 1<<20, 1<<20, 0); err != nil {
		t.Fatal(err)
	}
	dst := overlay("dst")
	res, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, TargetBase: dst.Backing(), Sparse: 4096})
	if err != nil {
		t.Fatal(err)
	}
	w.expect(dst, want)
	if res.Skipped < 2<<20 {
		t.Errorf("only %d bytes were left to the backing file", res.Skipped)
	}
}

// TestConvertSalvage reads a disk with bad places: without salvage it fails, with
// it exactly the bad sectors are zeroes.
func TestConvertSalvage(t *testing.T) {
	const size, bad = 3 << 20, 1<<20 + 5*512
	w := newWorld(t)
	src := w.create("src", "raw", size, nil)
	want := make([]byte, size)
	testkit.Fill(testkit.Rand(1), want)
	if _, err := src.WriteAt(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	w.mem.Disk("src").SetHook(func(op mem.Op, off, n int64) error {
		if op == mem.OpRead && off < bad+1024 && bad < off+n {
			return syscall.EIO
		}
		return nil
	})
	dst := w.create("dst", "qcow2", size, nil)
	job := ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, Sparse: 4096, TargetZero: true}
	if _, err := ops.Convert(t.Context(), job); !errors.Is(err, syscall.EIO) {
		t.Fatalf("got %v", err)
	}
	var mu sync.Mutex
	var warnings []string
	job.Salvage, job.TargetZero = true, false
	job.Warn = func(m string) { mu.Lock(); warnings = append(warnings, m); mu.Unlock() }
	if _, err := ops.Convert(t.Context(), job); err != nil {
		t.Fatal(err)
	}
	clear(want[bad : bad+1024])
	w.expect(dst, want)
	if len(warnings) != 2 {
		t.Errorf("warnings: %q", warnings)
	}
}

// TestConvertCancel stops in the middle: the target is consistent all the same.
func TestConvertCancel(t *testing.T) {
	for _, compress := range []bool{false, true} {
		w := newWorld(t)
		src := w.create("src", "raw", 32<<20, nil)
		p := bytes.Repeat([]byte("some text that compresses "), 32<<20/26)
		if _, err := src.WriteAt(t.Context(), p, 0); err != nil {
			t.Fatal(err)
		}
		dst := w.create("dst", "qcow2", 32<<20, nil)
		ctx, cancel := context.WithCancel(t.Context())
		var reads atomic.Int32
		w.mem.Disk("src").SetHook(func(op mem.Op, _, _ int64) error {
			if op == mem.OpRead && reads.Add(1) == 7 {
				cancel()
			}
			return nil
		})
		_, err := ops.Convert(ctx, ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, Sparse: 4096, TargetZero: true, Compress: compress})
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("got %v", err)
		}
		if err := dst.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		r, err := dst.Tree().Node().(driver.Checker).Check(t.Context(), driver.CheckFix{}, nil, nil)
		if err != nil || r.Corruptions != 0 || r.Leaks != 0 {
			t.Errorf("check: %+v, %v", r, err)
		}
		cancel()
	}
}

func TestConvertRefusals(t *testing.T) {
	w := newWorld(t)
	src, small := w.create("src", "raw", 2<<20, nil), w.create("small", "raw", 1<<20, nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: small, Sparse: 4096}); !errors.Is(err, driver.ErrRange) {
		t.Errorf("a target that is too small: %v", err)
	}
	same := w.create("same", "raw", 2<<20, nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: same, Sparse: 4096, Compress: true}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("compression into raw: %v", err)
	}
	w.fill(src, 1)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: same, Sparse: 4096, TargetZero: true, Reflink: ops.ReflinkAlways}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("reflink in memory: %v", err)
	}
}

// TestRateLimit checks that the limit holds: 4 MiB at 8 MiB/s take about half a
// second, less what may pass at once.
func TestRateLimit(t *testing.T) {
	w := newWorld(t)
	src, dst := w.create("src", "raw", 4<<20, nil), w.create("dst", "raw", 4<<20, nil)
	p := make([]byte, 4<<20)
	testkit.Fill(testkit.Rand(1), p)
	if _, err := src.WriteAt(t.Context(), p, 0); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, Sparse: 4096, RateLimit: 8 << 20}); err != nil {
		t.Fatal(err)
	}
	if d := time.Since(start); d < 350*time.Millisecond {
		t.Errorf("4 MiB at 8 MiB/s took %v", d)
	}
	w.expect(dst, p)
}

func TestCompare(t *testing.T) {
	const size = 5 << 20
	for _, c := range []struct {
		name   string
		change func(w *world, b *block.Image)
		sizeB  int64
		strict bool
		want   ops.CompareResult
	}{
		{name: "same"},
		{name: "one byte", change: func(w *world, b *block.Image) { w.write(b, 3<<20+700, "\x01") },
			want: ops.CompareResult{Difference: ops.DiffContent, Offset: 3<<20 + 512}},
		{name: "first of two", change: func(w *world, b *block.Image) { w.write(b, 4<<20, "x"); w.write(b, 1<<20, "x") },
			want: ops.CompareResult{Difference: ops.DiffContent, Offset: 1 << 20}},
		{name: "larger with zeroes", sizeB: size + 1<<20, want: ops.CompareResult{SizeDiffers: true}},
		{name: "larger with data", sizeB: size + 1<<20, change: func(w *world, b *block.Image) { w.write(b, size+70_000, "x") },
			want: ops.CompareResult{SizeDiffers: true, Difference: ops.DiffContent, Offset: (size + 70_000) &^ 511}},
		{name: "strict size", sizeB: size + 1<<20, strict: true, want: ops.CompareResult{SizeDiffers: true, Difference: ops.DiffSize}},
		{name: "strict allocation", strict: true, change: func(w *world, b *block.Image) { w.write(b, 2<<20, string(make([]byte, 65536))) },
			want: ops.CompareResult{Difference: ops.DiffAllocation, Offset: 2 << 20}},
		{name: "lax allocation", change: func(w *world, b *block.Image) { w.write(b, 2<<20, string(make([]byte, 65536))) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			if c.sizeB == 0 {
				c.sizeB = size
			}
			a, b := w.create("a", "qcow2", size, nil), w.create("b", "qcow2", c.sizeB, nil)
			for _, img := range []*block.Image{a, b} {
				w.write(img, 100_000, "the same in both")
				w.write(img, 4_500_000, "here too")
			}
			if c.change != nil {
				c.change(w, b)
			}
			for _, pair := range [][2]*block.Image{{a, b}, {b, a}} {
				got, err := ops.Compare(t.Context(), pair[0], pair[1], ops.CompareOptions{Strict: c.strict})
				if err != nil || got != c.want {
					t.Errorf("got %+v, %v, want %+v", got, err, c.want)
				}
			}
		})
	}
}

func (w *world) write(img *block.Image, off int64, s string) {
	w.t.Helper()
	if _, err := img.WriteAt(w.t.Context(), []byte(s), off); err != nil {
		w.t.Fatal(err)
	}
}

func TestChecksum(t *testing.T) {
	w := newWorld(t)
	img := w.create("a", "qcow2", 7<<20+512, nil)
	want := sha256.Sum256(w.fill(img, 1))
	h := sha256.New()
	if err := ops.Checksum(t.Context(), img, h, nil); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(h.Sum(nil), want[:]) {
		t.Error("not the digest of the content")
	}
	w.mem.Disk("a").SetHook(func(op mem.Op, off, n int64) error {
		if op == mem.OpRead && n > 8192 {
			return syscall.EIO
		}
		return nil
	})
	if err := ops.Checksum(t.Context(), img, sha256.New(), nil); !errors.Is(err, syscall.EIO) {
		t.Errorf("a disk that cannot be read: %v", err)
	}
}

func TestStreams(t *testing.T) {
	w := newWorld(t)
	src := w.create("src", "qcow2", 6<<20+1024, nil)
	want := w.fill(src, 1)
	for _, format := range []string{"raw", "qcow2"} {
		var out bytes.Buffer
		h := sha256.New()
		if _, err := ops.ConvertToWriter(t.Context(), &out, w.reg.Lookup(format), opts.Dict{}, ops.ConvertJob{Sources: []*block.Image{src}, Sparse: 4096, Checksum: h}); err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(want); !bytes.Equal(h.Sum(nil), sum[:]) {
			t.Errorf("%s: the checksum is not that of the content", format)
		}
		d := mem.NewDisk(int64(out.Len()))
		if _, err := d.WriteAt(t.Context(), out.Bytes(), 0); err != nil {
			t.Fatal(err)
		}
		w.mem.Add("streamed", d)
		w.expect(w.open("streamed", format, false), want)

		for _, compress := range []bool{false, format == "qcow2"} {
			in := w.create("in", format, 0, nil)
			job := ops.ConvertJob{Target: in, Sparse: 4096, TargetZero: true, Compress: compress}
			if _, err := ops.ConvertFromReader(t.Context(), io.MultiReader(bytes.NewReader(want[:3_000_000]), bytes.NewReader(want[3_000_000:])), job); err != nil {
				t.Fatal(err)
			}
			w.expect(in, want)
		}
	}
}

// TestBench counts what it sends.
func TestBench(t *testing.T) {
	w := newWorld(t)
	img := w.create("a", "raw", 1<<20, nil)
	var writes, flushes atomic.Int64
	w.mem.Disk("a").SetHook(func(op mem.Op, off, n int64) error {
		switch op {
		case mem.OpWrite:
			writes.Add(n)
		case mem.OpFlush:
			flushes.Add(1)
		}
		return nil
	})
	for _, drain := range []bool{true, false} {
		writes.Store(0)
		flushes.Store(0)
		if _, err := ops.Bench(t.Context(), ops.BenchJob{Image: img, Count: 1000, Depth: 8, Size: 4096, Write: true, Pattern: 9, FlushInterval: 100, Drain: drain}); err != nil {
			t.Fatal(err)
		}
		if writes.Load() != 1000*4096 || flushes.Load() != 10 {
			t.Errorf("drain %v: %d bytes written, %d flushes", drain, writes.Load(), flushes.Load())
		}
	}
	if _, err := ops.Bench(t.Context(), ops.BenchJob{Image: img, Count: 1, Depth: 1, Size: 2 << 20}); err == nil {
		t.Error("a request larger than the disk was sent")
	}
}
