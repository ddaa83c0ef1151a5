package ops_test

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// objectStore is a protocol that keeps disks as objects, and notes what is made to read as zeroes.
type objectStore struct {
	*mem.Driver
	desc driver.Desc

	mu     sync.Mutex
	zeroed [][2]int64 // offset and length
}

// Desc implements driver.Driver.
func (s *objectStore) Desc() *driver.Desc { return &s.desc }

// Open implements driver.Driver.
func (s *objectStore) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := s.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return &objects{n.(driver.Storage), s}, nil
}

type objects struct {
	driver.Storage
	store *objectStore
}

// Traits implements driver.Node.
func (o *objects) Traits() driver.Traits {
	t := o.Storage.Traits()
	t.ObjectZeroes = true
	return t
}

// WriteZeroes implements driver.ZeroWriter.
func (o *objects) WriteZeroes(ctx context.Context, off, n int64, flags driver.ZeroFlags) error {
	o.store.mu.Lock()
	o.store.zeroed = append(o.store.zeroed, [2]int64{off, n})
	o.store.mu.Unlock()
	return o.Storage.(driver.ZeroWriter).WriteZeroes(ctx, off, n, flags)
}

// TestConvertIntoObjects: of a target that is kept as objects, and holds data, only what shall be zeroes is made so, as
// removing objects that are written then would take longer than all else. Of one without data nothing is.
func TestConvertIntoObjects(t *testing.T) {
	const size, part = 8 << 20, 1 << 20
	s := &objectStore{Driver: mem.New().(*mem.Driver)}
	s.desc = *s.Driver.Desc()
	s.desc.Name, s.desc.Schemes = "objects", []string{"objects"}
	w := newWorld(t)
	w.reg = block.NewRegistry(append(drivers.All(), s)...)
	for _, d := range w.reg.Drivers() {
		if m, ok := d.(*mem.Driver); ok && d != driver.Driver(s) {
			w.mem = m
		}
	}
	source := w.create("source", "raw", size, nil)
	want := make([]byte, size)
	for off := int64(0); off < size; off += 2 * part {
		copy(want[off:], bytes.Repeat([]byte("data"), part/4))
		if _, err := source.WriteAt(t.Context(), want[off:off+part], off); err != nil {
			t.Fatal(err)
		}
	}
	for _, full := range []bool{true, false} {
		name := map[bool]string{true: "objects:full", false: "objects:empty"}[full]
		if err := block.Create(t.Context(), w.reg, block.CreateRequest{Filename: name, Format: "raw", Size: size, Gate: driver.AllowAll}); err != nil {
			t.Fatal(err)
		}
		target, err := block.Open(t.Context(), w.reg, block.Source{Filename: name, Format: "raw"}, block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close(context.Background())
		if full {
			if _, err := target.WriteAt(t.Context(), bytes.Repeat([]byte("old "), size/4), 0); err != nil {
				t.Fatal(err)
			}
		}
		s.zeroed = nil
		if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{source}, Target: target, Sparse: 4096}); err != nil {
			t.Fatal(err)
		}
		w.expect(target, want)
		zeroes := int64(0)
		for _, z := range s.zeroed {
			if !bytes.Equal(want[z[0]:z[0]+z[1]], make([]byte, z[1])) {
				t.Errorf("%s: %d bytes at %d were made zeroes before data came there", name, z[1], z[0])
			}
			zeroes += z[1]
		}
		if all := map[bool]int64{true: size / 2}[full]; zeroes != all {
			t.Errorf("%s: %d bytes were made zeroes, not %d", name, zeroes, all)
		}
	}
}
