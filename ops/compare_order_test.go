package ops_test

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// unmapped is a protocol of disks that cannot tell what is at mapFails and behind. Reads wait until
// that was asked for, and fail from readFails on.
type unmapped struct {
	*mem.Driver
	mapFails, readFails int64
	asked               chan struct{} // closed when it was asked for
	once                *sync.Once
}

func (d *unmapped) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return unmappedNode{n.(driver.Storage), d}, nil
}

type unmappedNode struct {
	driver.Storage
	d *unmapped
}

func (n unmappedNode) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	if off >= n.d.mapFails {
		n.d.once.Do(func() { close(n.d.asked) })
		return driver.Extent{}, syscall.EIO
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(length, n.d.mapFails-off)}, nil
}

func (n unmappedNode) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	select {
	case <-n.d.asked:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	if off+int64(len(p)) > n.d.readFails {
		return 0, syscall.EIO
	}
	return n.Storage.ReadAt(ctx, p, off)
}

// TestCompareOrder: the result is what comes first on the disks, though what lies behind it was
// found before: a range that cannot be read, or a difference before any such.
func TestCompareOrder(t *testing.T) {
	const size, end = 16 << 20, 4 << 20 // few enough spans that none waits for a read
	for name, c := range map[string]struct {
		readFails, differs int64 // size: nowhere
		want               int64
		fails              bool
	}{
		"neither":                        {size, size, end, true},
		"a read fails":                   {2<<20 + 1, size, 2 << 20, true},
		"a difference":                   {size, 1 << 20, 1 << 20, false},
		"a difference before a failure":  {2 << 20, 1 << 20, 1 << 20, false},
		"a failure before a difference":  {1<<20 + 1, 3 << 20, 1 << 20, true},
		"a difference where none can be": {size, end + 512, end, true},
	} {
		t.Run(name, func(t *testing.T) {
			d := &unmapped{Driver: mem.New().(*mem.Driver), mapFails: size, readFails: size, asked: make(chan struct{}), once: &sync.Once{}}
			w := worldOn(t, d, d.Driver)
			a, b := w.create("a", "raw", size, nil), w.create("b", "raw", size, nil)
			if c.differs < size {
				if _, err := a.WriteAt(t.Context(), []byte{1}, c.differs); err != nil {
					t.Fatal(err)
				}
			}
			d.mapFails, d.readFails = end, c.readFails
			res, err := ops.Compare(t.Context(), a, b, ops.CompareOptions{})
			var failed *ops.CompareError
			switch {
			case c.fails && (!errors.As(err, &failed) || !errors.Is(err, syscall.EIO) || failed.Offset != c.want):
				t.Errorf("%v, %+v", err, failed)
			case !c.fails && (err != nil || res.Difference != ops.DiffContent || res.Offset != c.want):
				t.Errorf("%+v, %v", res, err)
			}
		})
	}
}
