package chunks

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"io"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// zdisk is a disk of zlib chunks of length bytes, the last one shorter.
type zdisk struct {
	content []byte
	length  int64
	list    []Chunk
	file    *mem.Disk
	decoded atomic.Int64
	z       Zlib
	before  func(c Chunk) error // called before a chunk is decoded
}

func newZdisk(t testing.TB, size, length int64) *zdisk {
	d := &zdisk{content: make([]byte, size), length: length, file: mem.NewDisk(0)}
	testkit.FillDisk(testkit.Rand(1), d.content)
	for off := int64(0); off < size; off += length {
		var b bytes.Buffer
		w, err := zlib.NewWriterLevel(&b, zlib.BestSpeed)
		if err != nil {
			t.Fatal(err)
		}
		part := d.content[off:min(size, off+length)]
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		host := d.file.Size()
		if _, err := d.file.WriteAt(t.Context(), b.Bytes(), host); err != nil {
			t.Fatal(err)
		}
		d.list = append(d.list, Chunk{Offset: off, Length: int64(len(part)), File: d.file, Host: host, Size: int64(b.Len())})
	}
	return d
}

func (d *zdisk) find(_ context.Context, off int64) (Chunk, error) { return d.list[off/d.length], nil }

func (d *zdisk) decode(dst []byte, in *Input, c Chunk) error {
	if d.before != nil {
		if err := d.before(c); err != nil {
			return err
		}
	}
	d.decoded.Add(1)
	n, err := d.z.Decode(dst, in)
	if err == nil && n < len(dst) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

func (d *zdisk) reader(cache int64) (*Reader, *driver.Budget) {
	budget := &driver.Budget{MaxMemory: 64 << 20}
	return NewReader(Config{Decode: d.decode, Budget: budget, Cache: cache}), budget
}

// free tells whether nothing of the budget is in use.
func free(b *driver.Budget) bool {
	if err := b.Scratch("all", 64<<20); err != nil {
		return false
	}
	b.Release(64 << 20)
	return true
}

// TestRead: ranges of all lengths and places, from several goroutines, and the memory
// is given back.
func TestRead(t *testing.T) {
	d := newZdisk(t, 3<<20+777, 128<<10)
	for _, cache := range []int64{1, 400 << 10, 16 << 20} {
		r, budget := d.reader(cache)
		var wg sync.WaitGroup
		for w := range uint64(4) {
			wg.Go(func() {
				rnd := testkit.Rand(w)
				for range 60 {
					off := rnd.Int64N(int64(len(d.content)))
					n := 1 + rnd.Int64N(min(int64(len(d.content))-off, 1<<uint(rnd.IntN(21))))
					p := make([]byte, n)
					if err := r.ReadAt(t.Context(), p, off, d.find); err != nil || !bytes.Equal(p, d.content[off:off+n]) {
						t.Errorf("%d bytes at %d: wrong, or %v", n, off, err)
						return
					}
				}
			})
		}
		wg.Wait()
		if held := r.held; held > max(cache, d.length) {
			t.Errorf("%d bytes are kept, the bound is %d", held, cache)
		}
		r.Close()
		if !free(budget) {
			t.Error("memory of the budget is not given back")
		}
	}
}

// TestOnce: readers of parts of a chunk share one decoding, also when they come while
// it is under way, and the cache serves those that come later.
func TestOnce(t *testing.T) {
	d := newZdisk(t, 1<<20, 256<<10)
	r, _ := d.reader(0)
	const readers = 8
	d.before = func(Chunk) error {
		// All others have come and wait before the decoding goes on.
		for {
			r.mu.Lock()
			n := r.entries[0].users
			r.mu.Unlock()
			if n == readers {
				return nil
			}
			runtime.Gosched()
		}
	}
	var wg sync.WaitGroup
	for i := range readers {
		wg.Go(func() {
			p := make([]byte, 1000)
			off := int64(i) * 4096
			if err := r.ReadAt(t.Context(), p, off, d.find); err != nil || !bytes.Equal(p, d.content[off:off+1000]) {
				t.Errorf("reader %d: wrong, or %v", i, err)
			}
		})
	}
	wg.Wait()
	p := make([]byte, 256<<10)
	if err := r.ReadAt(t.Context(), p, 0, d.find); err != nil || !bytes.Equal(p, d.content[:256<<10]) {
		t.Errorf("the whole chunk: wrong, or %v", err)
	}
	if n := d.decoded.Load(); n != 1 {
		t.Errorf("decoded %d times", n)
	}
}

// TestCancelledLeader: who waits for another's decoding decodes itself when the other
// gives up.
func TestCancelledLeader(t *testing.T) {
	d := newZdisk(t, 256<<10, 256<<10)
	r, budget := d.reader(0)
	ctx, cancel := context.WithCancel(t.Context())
	var calls atomic.Int64
	d.before = func(Chunk) error {
		if calls.Add(1) > 1 {
			return nil
		}
		for {
			r.mu.Lock()
			n := r.entries[0].users
			r.mu.Unlock()
			if n == 2 {
				cancel()
				return ctx.Err()
			}
			runtime.Gosched()
		}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := r.ReadAt(ctx, make([]byte, 10), 0, d.find); !errors.Is(err, context.Canceled) {
			t.Errorf("the one that gave up: %v", err)
		}
	})
	wg.Go(func() {
		for calls.Load() == 0 { // the other one is first
			runtime.Gosched()
		}
		p := make([]byte, 10)
		if err := r.ReadAt(t.Context(), p, 5, d.find); err != nil || !bytes.Equal(p, d.content[5:15]) {
			t.Errorf("the one that waited: wrong, or %v", err)
		}
	})
	wg.Wait()
	r.Close()
	if !free(budget) {
		t.Error("memory of the budget is not given back")
	}
}

// TestBad: damaged chunks, chunks that are longer or shorter than they should be,
// chunks beyond the end of the file, and an index that lies. Failures are not kept.
func TestBad(t *testing.T) {
	for name, c := range map[string]struct {
		change func(d *zdisk)
		want   string
	}{
		"damaged": {func(d *zdisk) { _, _ = d.file.WriteAt(context.Background(), []byte("garbage!"), d.list[1].Host+100) }, "cannot decode"},
		"no zlib": {func(d *zdisk) { _, _ = d.file.WriteAt(context.Background(), []byte("xx"), d.list[1].Host) }, "invalid header"},
		"checksum": {func(d *zdisk) {
			_, _ = d.file.WriteAt(context.Background(), []byte{1, 2, 3, 4}, d.list[1].Host+d.list[1].Size-4)
		}, "checksum"},
		"bomb":     {func(d *zdisk) { d.list[1].Length = 100 << 10 }, "more data than"},
		"short":    {func(d *zdisk) { d.list[1].Length = 200 << 10 }, "unexpected EOF"},
		"cut":      {func(d *zdisk) { d.list[1].Size -= 5 }, "unexpected EOF"},
		"beyond":   {func(d *zdisk) { d.list[1].Host = d.file.Size() + 512 }, "beyond the end of the file"},
		"half":     {func(d *zdisk) { d.list[1].Host = d.file.Size() - 20; d.list[1].Size = 1000 }, ""},
		"liar":     {func(d *zdisk) { d.list[1].Offset = 0 }, "is not in the chunk"},
		"negative": {func(d *zdisk) { d.list[1].Size = -1 }, "is not in the chunk"},
	} {
		t.Run(name, func(t *testing.T) {
			d := newZdisk(t, 512<<10, 128<<10)
			good := d.list[1]
			c.change(d)
			r, budget := d.reader(0)
			for _, n := range []int64{10, d.list[1].Length, 300 << 10} {
				err := r.ReadAt(t.Context(), make([]byte, n), 128<<10, d.find)
				if !errors.Is(err, driver.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("%d bytes: %v", n, err)
				}
			}
			d.list[1] = good
			if name != "damaged" && name != "no zlib" && name != "checksum" {
				p := make([]byte, 10)
				if err := r.ReadAt(t.Context(), p, 128<<10, d.find); err != nil || !bytes.Equal(p, d.content[128<<10:128<<10+10]) {
					t.Errorf("afterwards: wrong, or %v", err)
				}
			}
			r.Close()
			if !free(budget) {
				t.Error("memory of the budget is not given back")
			}
		})
	}
}

// failing is a file that cannot be read.
type failing struct{ *mem.Disk }

var errBroken = errors.New("the medium is broken")

func (failing) ReadAt(context.Context, []byte, int64) (int, error) { return 0, errBroken }

// TestFileFails: an error of the file is none of the image.
func TestFileFails(t *testing.T) {
	d := newZdisk(t, 100<<10, 64<<10)
	d.list[0].File = failing{d.file}
	r, _ := d.reader(0)
	for _, n := range []int{10, 64 << 10, 100 << 10} {
		if err := r.ReadAt(t.Context(), make([]byte, n), 0, d.find); !errors.Is(err, errBroken) || errors.Is(err, driver.ErrCorrupt) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestBudget: a chunk for which there is no memory is refused; a whole one needs none.
func TestBudget(t *testing.T) {
	d := newZdisk(t, 2<<20, 1<<20)
	r := NewReader(Config{Decode: d.decode, Budget: &driver.Budget{MaxMemory: 1 << 19}})
	if err := r.ReadAt(t.Context(), make([]byte, 10), 0, d.find); !errors.Is(err, driver.ErrBudget) {
		t.Errorf("%v", err)
	}
	if err := r.ReadAt(t.Context(), make([]byte, 1<<20), 0, d.find); err != nil {
		t.Errorf("a whole chunk: %v", err)
	}
}

// TestInput: what decoders ask of their input, over chunks of more and of less than a
// window, with and without an end of the file before theirs.
func TestInput(t *testing.T) {
	content := make([]byte, 3*window+5)
	testkit.Fill(testkit.Rand(2), content)
	file := mem.NewDisk(0)
	if _, err := file.WriteAt(t.Context(), content, 0); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ host, size, skip, limit int64 }{
		{0, 100, 0, -1}, {7, window, 0, -1}, {7, window + 1, 0, -1}, {1, 3 * window, 0, -1}, {0, 3 * window, 10, -1},
		{0, 3 * window, window, -1}, {5, 3 * window, 100, 50}, {5, 3 * window, 100, window + 50}, {5, 100, 20, 1000}, {5, 100, 20, 0},
	} {
		want := content[c.host+c.skip : c.host+c.size]
		if c.limit >= 0 {
			want = want[:min(int64(len(want)), c.limit)]
		}
		for _, all := range []bool{true, false} {
			in := newInput(t.Context(), Chunk{File: file, Host: c.host, Size: c.size})
			for range c.skip {
				if _, err := in.ReadByte(); err != nil {
					t.Fatal(err)
				}
			}
			if c.limit >= 0 {
				in.Limit(c.limit)
			}
			if in.Rest() != int64(len(want)) {
				t.Errorf("%+v: %d bytes are left, want %d", c, in.Rest(), len(want))
			}
			var got []byte
			var err error
			if all {
				got, err = in.All()
			} else {
				got, err = io.ReadAll(in)
			}
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%+v, all %v: %d bytes, want %d; %v", c, all, len(got), len(want), err)
			}
			in.close()
		}
	}
	for _, n := range []int64{10, window, 2 * window} {
		in := newInput(t.Context(), Chunk{File: file, Host: int64(len(content)) - n + 1, Size: n})
		if _, err := in.All(); err != io.ErrUnexpectedEOF {
			t.Errorf("%d bytes, one more than there are: %v", n, err)
		}
	}
}

func BenchmarkRead(b *testing.B) {
	d := newZdisk(b, 16<<20, 64<<10)
	r, _ := d.reader(0)
	p := make([]byte, 1<<20)
	b.SetBytes(int64(len(p)))
	for i := int64(0); b.Loop(); i++ {
		if err := r.ReadAt(b.Context(), p, i%16<<20, d.find); err != nil {
			b.Fatal(err)
		}
	}
}

// TestLongStream: a stream that is too long to be taken as a whole, good and bad.
func TestLongStream(t *testing.T) {
	content := make([]byte, maxWhole+100<<10)
	testkit.Fill(testkit.Rand(9), content)
	var b bytes.Buffer
	w, err := zlib.NewWriterLevel(&b, zlib.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := mem.NewDisk(0)
	if _, err := file.WriteAt(t.Context(), b.Bytes(), 0); err != nil {
		t.Fatal(err)
	}
	var z Zlib
	for _, c := range []struct {
		room, cut int
		want      error
	}{{0, 0, nil}, {100, 0, nil}, {-1, 0, ErrLong}, {0, 1, io.ErrUnexpectedEOF}, {0, 0, nil}} {
		dst := make([]byte, len(content)+c.room)
		in := newInput(t.Context(), Chunk{File: file, Size: int64(b.Len() - c.cut)})
		n, err := z.Decode(dst, in)
		in.close()
		if !errors.Is(err, c.want) || err == nil && (n != len(content) || !bytes.Equal(dst[:n], content)) {
			t.Errorf("%+v: %d bytes, %v", c, n, err)
		}
	}
}
