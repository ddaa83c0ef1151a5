package ops_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// refusing is a protocol whose disks offer to copy ranges and then cannot.
type refusing struct {
	*mem.Driver
	asked atomic.Int32
	most  atomic.Int64 // bytes of the longest request
}

func (d *refusing) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return refusingNode{n.(driver.Storage), d}, nil
}

type refusingNode struct {
	driver.Storage
	d *refusing
}

func (n refusingNode) CopyFrom(_ context.Context, _ driver.Storage, _, _, length int64, _ driver.CopyMode) (int64, error) {
	if length == 0 {
		return 0, nil
	}
	n.d.asked.Add(1)
	n.d.most.Store(max(n.d.most.Load(), length))
	time.Sleep(20 * time.Millisecond) // others come meanwhile
	return 0, driver.ErrUnsupported
}

// refusingWorld is a world of such disks.
func refusingWorld(t *testing.T) (*world, *refusing) {
	d := &refusing{Driver: mem.New().(*mem.Driver)}
	return worldOn(t, d, d.Driver), d
}

// worldOn is a world whose disks in memory, those of m, are opened by d.
func worldOn(t *testing.T, d driver.Driver, m *mem.Driver) *world {
	list := []driver.Driver{d}
	for _, o := range drivers.All() {
		if _, ok := o.(*mem.Driver); !ok {
			list = append(list, o)
		}
	}
	return &world{t: t, reg: block.NewRegistry(list...), mem: m}
}

// TestConvertAsksOnce copies onto disks that refuse to share blocks. Each refusal
// takes room in the target and gives it back, so one must be enough: otherwise
// the image has gaps where others claimed room behind it.
func TestConvertAsksOnce(t *testing.T) {
	w, d := refusingWorld(t)
	src := w.create("src", "raw", 16<<20, nil)
	data := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(1), data)
	var want []byte
	for off := int64(0); off < src.Size(); off += 2 << 20 {
		if _, err := src.WriteAt(t.Context(), data, off); err != nil {
			t.Fatal(err)
		}
		want = append(append(want, data...), make([]byte, 1<<20)...)
	}
	dst := w.create("dst", "qcow2", src.Size(), nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, TargetZero: true, Sparse: 4096, Workers: 8}); err != nil {
		t.Fatal(err)
	}
	w.expect(dst, want)
	if n := d.asked.Load(); n != 1 {
		t.Errorf("a disk that refuses was asked %d times, want 1", n)
	}
	if err := dst.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// Header, refcounts and L1 are five clusters with the L2 table; data follows without gaps.
	if got, most := w.mem.Disk("dst").Size(), int64(5<<16+8<<20); got > most {
		t.Errorf("the image takes %d bytes, want at most %d", got, most)
	}
}

// TestRefusalLeavesWork: the unit for which the system refuses to copy is copied by one worker. It is a small part of
// a disk that is all data, so that the other workers have the rest.
func TestRefusalLeavesWork(t *testing.T) {
	w, d := refusingWorld(t)
	src := w.create("src", "raw", 16<<20, nil)
	want := make([]byte, src.Size())
	testkit.Fill(testkit.Rand(3), want)
	if _, err := src.WriteAt(t.Context(), want, 0); err != nil {
		t.Fatal(err)
	}
	dst := w.create("dst", "raw", src.Size(), nil)
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, TargetZero: true, Sparse: 4096, Workers: 2}); err != nil {
		t.Fatal(err)
	}
	w.expect(dst, want)
	if n := d.most.Load(); n == 0 || n > 1<<20 {
		t.Errorf("the system was asked for %d bytes at once", n)
	}
}

// TestConvertShrunkSource: a source that becomes smaller while it is copied ends the
// copy with an error.
func TestConvertShrunkSource(t *testing.T) {
	w := newWorld(t)
	src := w.create("src", "qcow2", 8<<20, nil)
	w.fill(src, 1)
	dst := w.create("dst", "raw", 8<<20, nil)
	once := false
	job := ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, TargetZero: true, Sparse: 4096, Workers: 1, Progress: func(ops.Progress) {
		if !once {
			once = true
			if err := src.Resize(t.Context(), 1<<20, driver.ResizeOptions{}); err != nil {
				t.Error(err)
			}
		}
	}}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := ops.Convert(ctx, job); err == nil || ctx.Err() != nil {
		t.Errorf("a source that shrank: %v", err)
	}
}
