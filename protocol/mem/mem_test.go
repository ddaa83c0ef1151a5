package mem_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

var ctx = context.Background()

func TestRandomOperations(t *testing.T) {
	const size = 1 << 20
	d := mem.NewDisk(size)
	model := make([]byte, size)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 800 {
		off := r.IntN(size)
		n := 1 + r.IntN(min(size-off, 200000))
		switch r.IntN(5) {
		case 0, 1:
			p := make([]byte, n)
			for j := range p {
				p[j] = byte(r.Uint32())
			}
			copy(model[off:], p)
			if _, err := d.WriteAt(ctx, p, int64(off)); err != nil {
				t.Fatal(err)
			}
		case 2:
			clear(model[off : off+n])
			if err := d.WriteZeroes(ctx, int64(off), int64(n), 0); err != nil {
				t.Fatal(err)
			}
		case 3:
			clear(model[off : off+n])
			if err := d.Discard(ctx, int64(off), int64(n)); err != nil {
				t.Fatal(err)
			}
		case 4:
			p := make([]byte, n)
			if _, err := d.ReadAt(ctx, p, int64(off)); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p, model[off:off+n]) {
				t.Fatalf("step %d: wrong bytes at %d+%d", i, off, n)
			}
		}
	}
	for off := int64(0); off < size; {
		e, err := d.Map(ctx, off, size-off)
		if err != nil || e.Length <= 0 {
			t.Fatalf("Map(%d) = %+v, %v", off, e, err)
		}
		if e.Kind == driver.ExtentZero && len(bytes.Trim(model[off:off+e.Length], "\x00")) != 0 {
			t.Fatalf("Map calls %d+%d zero", off, e.Length)
		}
		off += e.Length
	}
}

func TestHolesByPage(t *testing.T) {
	d := mem.NewDisk(10 << 30)
	if e, _ := d.Map(ctx, 5, math.MaxInt64); e.Kind != driver.ExtentZero || e.Length != 10<<30-5 {
		t.Fatalf("empty disk: %+v", e)
	}
	if _, err := d.WriteAt(ctx, []byte{1}, 5000); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		off, length int64
		kind        driver.ExtentKind
	}{{0, 4096, driver.ExtentZero}, {4096, 4096, driver.ExtentData}, {8192, 1 << 20, driver.ExtentZero}, {10 << 30, 0, driver.ExtentEOF}} {
		if e, _ := d.Map(ctx, c.off, max(c.length, 1)); e.Kind != c.kind || e.Length != c.length {
			t.Errorf("Map(%d) = %+v", c.off, e)
		}
	}
}

func TestShrinkAndGrowReadsZeroes(t *testing.T) {
	d := mem.NewDisk(100000)
	if _, err := d.WriteAt(ctx, bytes.Repeat([]byte{7}, 100000), 0); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{70001, 200000} {
		if err := d.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	p := make([]byte, 200001)
	n, err := d.ReadAt(ctx, p, 0)
	if n != 200000 || err != io.EOF {
		t.Fatal(n, err)
	}
	if p[70000] != 7 || len(bytes.Trim(p[70001:], "\x00")) != 0 {
		t.Fatal("old bytes came back")
	}
}

func TestHookFailsOperations(t *testing.T) {
	d := mem.NewDisk(4096)
	boom := errors.New("boom")
	writes := 0
	d.SetHook(func(op mem.Op, _, _ int64) error {
		if op == mem.OpWrite {
			if writes++; writes == 2 {
				return boom
			}
		}
		return nil
	})
	for i, want := range []error{nil, boom, nil} {
		if _, err := d.WriteAt(ctx, []byte{byte(i + 1)}, 0); !errors.Is(err, want) {
			t.Fatalf("write %d: %v", i, err)
		}
	}
	c := d.Clone()
	p := make([]byte, 1)
	if _, err := c.ReadAt(ctx, p, 0); err != nil || p[0] != 3 {
		t.Fatal(p, err)
	}
}

func TestNames(t *testing.T) {
	m := mem.New()
	open := func(write bool, o opts.Dict) (driver.Storage, error) {
		n, err := m.Open(ctx, &driver.OpenRequest{Options: o, Access: driver.Access{Write: write}})
		if err != nil {
			return nil, err
		}
		return n.(driver.Storage), nil
	}
	if _, err := open(true, opts.Dict{"filename": "a"}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := m.(driver.Creator).Create(ctx, &driver.CreateRequest{Filename: "mem:a", Size: 8192}); err != nil {
		t.Fatal(err)
	}
	w, err := open(true, opts.Dict{"filename": "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.WriteAt(ctx, []byte("x"), 1); err != nil {
		t.Fatal(err)
	}
	r, err := open(false, opts.Dict{"filename": "a"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.WriteAt(ctx, []byte("y"), 1); !errors.Is(err, driver.ErrReadOnly) {
		t.Fatal(err)
	}
	p := make([]byte, 2)
	if _, err := r.ReadAt(ctx, p, 0); err != nil || p[1] != 'x' || r.Size() != 8192 {
		t.Fatal(p, err, r.Size())
	}
	if err := m.(driver.Deleter).Delete(ctx, "mem:a"); err != nil {
		t.Fatal(err)
	}
	if s, err := open(true, opts.Dict{"size": "1M"}); err != nil || s.Size() != 1<<20 {
		t.Fatal(err)
	}
	if _, err := open(true, opts.Dict{"nonsense": "1M"}); err == nil {
		t.Fatal("an unknown option was accepted")
	}
}
