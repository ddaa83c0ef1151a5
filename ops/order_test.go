package ops_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"sync"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// troubled is a protocol whose disk "src" cannot be read everywhere.
type troubled struct {
	*mem.Driver
	trouble *trouble // nil: none yet
}

// trouble says what of a disk cannot be read. What lies at the offset later and behind is met first: a read before
// it waits until something there was asked for.
type trouble struct {
	mapFails int64   // the map from here on
	fails    []int64 // reads that begin here
	later    int64
	stalls   bool // reads from later on take until their context ends
	asked    func()
	wait     <-chan struct{} // closed by asked
}

func (d *troubled) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	n, err := d.Driver.Open(ctx, req)
	if err != nil || req.Options["filename"] != "src" {
		return n, err
	}
	return troubledNode{n.(driver.Storage), d}, nil
}

type troubledNode struct {
	driver.Storage
	d *troubled
}

func (n troubledNode) Map(_ context.Context, off, length int64) (driver.Extent, error) {
	if t := n.d.trouble; t != nil {
		if off >= t.mapFails {
			t.asked()
			return driver.Extent{}, syscall.EIO
		}
		length = min(length, t.mapFails-off)
	}
	return driver.Extent{Kind: driver.ExtentData, Length: length}, nil
}

func (n troubledNode) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if t := n.d.trouble; t != nil {
		if off >= t.later {
			t.asked()
		}
		wait := t.wait
		if off >= t.later && t.stalls {
			wait = nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		if slices.Contains(t.fails, off) {
			return 0, syscall.EIO
		}
	}
	return n.Storage.ReadAt(ctx, p, off)
}

// TestFirstFailure: where several places of a disk cannot be read, the error is that of the first of
// them, though one that lies behind it was met before. What is before it was done, and
// what is behind it does not hold the end up.
func TestFirstFailure(t *testing.T) {
	const size, mib, never = 16 << 20, 1 << 20, 1 << 40
	convert := func(format string, job ops.ConvertJob) func(*world, *block.Image) func(context.Context) (int64, error) {
		return func(w *world, src *block.Image) func(context.Context) (int64, error) {
			job.Sources, job.Target = []*block.Image{src}, w.create("t", format, size, nil)
			return func(ctx context.Context) (int64, error) {
				res, err := ops.Convert(ctx, job)
				return res.Copied, err
			}
		}
	}
	// How much was copied is told by some, others say 0.
	jobs := map[string]func(*world, *block.Image) func(context.Context) (int64, error){
		"convert":              convert("qcow2", ops.ConvertJob{TargetZero: true, Sparse: ops.DefaultSparse}),
		"convert out of order": convert("raw", ops.ConvertJob{TargetZero: true, OutOfOrder: true, Checksum: sha256.New()}),
		"checksum": func(_ *world, src *block.Image) func(context.Context) (int64, error) {
			return func(ctx context.Context) (int64, error) { return 0, ops.Checksum(ctx, src, sha256.New(), nil) }
		},
		"rebase": func(w *world, _ *block.Image) func(context.Context) (int64, error) {
			w.create("top", "qcow2", size, opts.Dict{"backing_file": "mem:src", "backing_fmt": "raw"}).Close(t.Context())
			job := ops.RebaseJob{Image: w.open("top", "qcow2", true)}
			return func(ctx context.Context) (int64, error) { return 0, ops.Rebase(ctx, job) }
		},
	}
	for name, c := range map[string]struct {
		trouble
		op   string
		want int64
	}{
		"the map, nothing before":       {trouble{mapFails: 4 * mib, later: never}, "map", 4 * mib},
		"the map, a read before":        {trouble{mapFails: 4 * mib, later: never, fails: []int64{2 * mib}}, "read", 2 * mib},
		"the map within a chunk":        {trouble{mapFails: 4*mib + 64<<10, later: never, fails: []int64{4 * mib}}, "read", 4 * mib},
		"a read, nothing before":        {trouble{mapFails: never, later: mib, fails: []int64{mib}}, "read", mib},
		"a read, one before":            {trouble{mapFails: never, later: mib, fails: []int64{0, mib}}, "read", 0},
		"a read, one behind that hangs": {trouble{mapFails: never, later: mib, fails: []int64{0}, stalls: true}, "read", 0},
	} {
		for job, prepare := range jobs {
			t.Run(name+"/"+job, func(t *testing.T) {
				d := &troubled{Driver: mem.New().(*mem.Driver)}
				w := worldOn(t, d, d.Driver)
				src := w.create("src", "raw", size, nil)
				ones(t, src)
				run := prepare(w, src)
				wait := make(chan struct{})
				c.wait, c.asked = wait, sync.OnceFunc(func() { close(wait) })
				d.trouble = &c.trouble
				copied, err := run(t.Context())
				var failed *block.IOError
				if !errors.As(err, &failed) || !errors.Is(err, syscall.EIO) || failed.Op != c.op || failed.Offset != c.want {
					t.Errorf("%v, %+v; want %s at %d", err, failed, c.op, c.want)
				}
				if copied != 0 && copied != c.want {
					t.Errorf("%d bytes were copied before %d", copied, c.want)
				}
			})
		}
	}
}

// TestCommitFirstFailure: as TestFirstFailure, for an image of which a table is gone, and a cluster before it.
func TestCommitFirstFailure(t *testing.T) {
	const size, cluster = 128 << 10, 512
	for name, c := range map[string]struct {
		broken int64 // a cluster that cannot be decoded; -1: none
		op     string
		want   int64
	}{
		"the table":            {-1, "map", cluster * cluster / 8},
		"and a cluster before": {cluster * 8, "read", cluster * 8},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.create("base", "raw", size, nil).Close(t.Context())
			top := w.create("top", "qcow2", size, opts.Dict{"cluster_size": "512", "backing_file": "mem:base", "backing_fmt": "raw"})
			ones(t, top)
			if err := top.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			file := w.open("top", "raw", true)
			number := func(at int64) uint64 {
				p := make([]byte, 8)
				if _, err := file.ReadAt(t.Context(), p, at); err != nil {
					t.Fatal(err)
				}
				return binary.BigEndian.Uint64(p) & (1<<56 - 1)
			}
			set := func(at int64, n uint64) {
				if _, err := file.WriteAt(t.Context(), binary.BigEndian.AppendUint64(nil, n), at); err != nil {
					t.Fatal(err)
				}
			}
			l1 := int64(number(40))
			set(l1+8, 1<<63|1<<40) // the second table is not in the file
			if table := int64(number(l1)); c.broken >= 0 {
				set(table+c.broken/cluster*8, 1<<62|number(table)) // as if compressed
			}
			file.Close(t.Context())
			img, err := block.Open(t.Context(), w.reg, block.Source{Filename: "mem:top", Format: "qcow2"},
				block.OpenOptions{Write: true, Chain: block.ChainUse{WriteBacking: true}, Gate: driver.AllowAll})
			if err != nil {
				t.Fatal(err)
			}
			defer img.Close(context.Background())
			err = ops.Commit(t.Context(), ops.CommitJob{Top: img, Base: img.Backing()})
			var failed *block.IOError
			if !errors.As(err, &failed) || failed.Op != c.op || failed.Offset != c.want {
				t.Errorf("%v, %+v; want %s at %d", err, failed, c.op, c.want)
			}
		})
	}
}

// ones fills a disk with bytes of which none is zero.
func ones(t *testing.T, img *block.Image) {
	t.Helper()
	if _, err := img.WriteAt(t.Context(), bytes.Repeat([]byte{1}, int(img.Size())), 0); err != nil {
		t.Fatal(err)
	}
}
