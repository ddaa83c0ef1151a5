package ops_test

import (
	"context"
	"crypto/sha256"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// counting is a protocol that counts questions about long ranges.
type counting struct {
	*mem.Driver
	long atomic.Int64
}

func (d *counting) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.Driver.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	return countingNode{n.(driver.Storage), d}, nil
}

type countingNode struct {
	driver.Storage
	d *counting
}

func (n countingNode) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	if length > 1<<20 {
		n.d.long.Add(1)
	}
	return n.Storage.Map(ctx, off, length)
}

// TestOneQuestion: a disk that is all data is asked a few times how far its data go, not once for each chunk.
func TestOneQuestion(t *testing.T) {
	d := &counting{Driver: mem.New().(*mem.Driver)}
	w := worldOn(t, d, d.Driver)
	const size = 32 << 20
	content := make([]byte, size)
	testkit.Fill(testkit.Rand(1), content)
	full := func(name string) *block.Image {
		img := w.create(name, "raw", size, nil)
		if _, err := img.WriteAt(t.Context(), content, 0); err != nil {
			t.Fatal(err)
		}
		return img
	}
	src, other, dst := full("src"), full("other"), w.create("dst", "raw", size, nil)
	for name, run := range map[string]func() error{
		"convert": func() error {
			_, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: []*block.Image{src}, Target: dst, TargetZero: true, Sparse: 4096})
			return err
		},
		"compare": func() error {
			res, err := ops.Compare(t.Context(), src, other, ops.CompareOptions{})
			if res.Difference != ops.Same {
				t.Errorf("%+v", res)
			}
			return err
		},
		"checksum": func() error { return ops.Checksum(t.Context(), src, sha256.New(), nil) },
	} {
		d.long.Store(0)
		if err := run(); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		// Two disks, a question that tells whether there are compressed clusters, and those asked before the system has refused.
		if n := d.long.Load(); n == 0 || n > 12 {
			t.Errorf("%s: the file was asked %d times about long ranges", name, n)
		}
	}
	w.expect(dst, content)
}
