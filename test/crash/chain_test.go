package crash

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// chainCase is an operation that must not change what an image shows, whenever
// it is cut off.
type chainCase struct {
	name    string
	options opts.Dict
	do      func(ctx context.Context, c *chainRun) error
	// snapshots: the image has some, which must not change either.
	snapshots bool
}

// chainRun is an image over a backing file that is not recorded.
type chainRun struct {
	r   *rand.Rand
	reg *block.Registry
	img *block.Image
}

const chainSize = 768 << 10

// The backing files: the first two hold the same, the third something else.
var chainNames = []string{"mem:base", "mem:base-" + strings.Repeat("long", 120), "mem:other"}

func (c *chainRun) amend(ctx context.Context, list string) error {
	d := opts.Dict{}
	if err := d.ParseList(list, ""); err != nil {
		return err
	}
	if err := ops.Amend(ctx, ops.AmendJob{Image: c.img, Options: d}); err != nil {
		return fmt.Errorf("%s: %w", list, err)
	}
	return nil
}

// amendAll makes amendments one after the other, with writes in between.
func amendAll(lists ...string) func(ctx context.Context, c *chainRun) error {
	return func(ctx context.Context, c *chainRun) error {
		for _, list := range lists {
			if err := c.amend(ctx, list); err != nil {
				return err
			}
			if err := scribble(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
}

func doChangeBacking(ctx context.Context, c *chainRun) error {
	for range 6 {
		name := chainNames[c.r.IntN(2)]
		if err := c.img.ChangeBacking(ctx, driver.BackingRef{Filename: name, Format: "raw"}); err != nil {
			return err
		}
	}
	return nil
}

var doRefcountBits = amendAll("refcount_bits=64", "refcount_bits=1", "refcount_bits=8", "refcount_bits=16", "refcount_bits=2", "refcount_bits=32")

var doCompat = amendAll("compat=0.10", "compat=1.1,lazy_refcounts=on", "lazy_refcounts=off", "compat=0.10", "compat=1.1,refcount_bits=4")

// scribble writes over what the image shows with the same bytes, so that room
// is allocated.
func scribble(ctx context.Context, c *chainRun) error {
	for range 8 {
		off := c.r.Int64N(chainSize/sector) * sector
		p := make([]byte, min(chainSize-off, (1+c.r.Int64N(60))*sector))
		if _, err := c.img.ReadAt(ctx, p, off); err != nil {
			return err
		}
		if _, err := c.img.WriteAt(ctx, p, off); err != nil {
			return err
		}
	}
	return nil
}

// doCommit empties the image after its backing file has taken up all.
func doCommit(ctx context.Context, c *chainRun) error {
	if err := ops.Commit(ctx, ops.CommitJob{Top: c.img, Base: c.img.Backing()}); err != nil {
		return err
	}
	return scribble(ctx, c)
}

func doRebase(ctx context.Context, c *chainRun) error {
	other, err := block.Open(ctx, c.reg, block.Source{Filename: chainNames[2], Format: "raw"}, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		return err
	}
	defer other.Close(ctx)
	return ops.Rebase(ctx, ops.RebaseJob{Image: c.img, New: other, Backing: driver.BackingRef{Filename: chainNames[2], Format: "raw"},
		Compress: c.r.IntN(2) == 0, Workers: 2})
}

func doRebaseNone(ctx context.Context, c *chainRun) error {
	return ops.Rebase(ctx, ops.RebaseJob{Image: c.img, Workers: 2})
}

var chainCases = []chainCase{
	{name: "change backing", options: opts.Dict{}, do: doChangeBacking},
	{name: "change backing, small clusters", options: opts.Dict{"cluster_size": "2048"}, do: doChangeBacking},
	{name: "change backing, version 2", options: opts.Dict{"compat": "0.10"}, do: doChangeBacking},
	{name: "refcount width", options: opts.Dict{"cluster_size": "1024"}, do: doRefcountBits},
	{name: "refcount width, 512-byte clusters", options: opts.Dict{"cluster_size": "512"}, do: doRefcountBits},
	{name: "refcount width, lazy refcounts", options: opts.Dict{"cluster_size": "4096", "lazy_refcounts": "on"}, do: doRefcountBits},
	{name: "compat", options: opts.Dict{"cluster_size": "4096"}, do: doCompat},
	{name: "compat, snapshots", options: opts.Dict{"cluster_size": "4096"}, snapshots: true, do: amendAll("compat=0.10")},
	{name: "commit", options: opts.Dict{"cluster_size": "4096"}, do: doCommit},
	{name: "commit, 512-byte clusters", options: opts.Dict{"cluster_size": "512"}, do: doCommit},
	{name: "commit, 1-bit refcounts", options: opts.Dict{"cluster_size": "1024", "refcount_bits": "1"}, do: doCommit},
	{name: "commit, version 2", options: opts.Dict{"compat": "0.10", "cluster_size": "1024"}, do: doCommit},
	{name: "commit, subclusters", options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, do: doCommit},
	{name: "commit, lazy refcounts", options: opts.Dict{"cluster_size": "1024", "lazy_refcounts": "on"}, do: doCommit},
	{name: "rebase", options: opts.Dict{"cluster_size": "4096"}, do: doRebase},
	{name: "rebase, subclusters", options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, do: doRebase},
	{name: "rebase, version 2", options: opts.Dict{"compat": "0.10", "cluster_size": "1024"}, do: doRebase},
	{name: "rebase to none", options: opts.Dict{"cluster_size": "4096"}, do: doRebaseNone},
}

func TestChain(t *testing.T) {
	for _, c := range chainCases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				runChain(t, c, seed)
			}
		})
	}
}

// chainWorld is an image with its backing files, before the operation.
type chainWorld struct {
	r       *rand.Rand
	memory  *mem.Driver
	dev     *recorded
	reg     *block.Registry
	initial *mem.Disk
	want    []byte // what the image shows
	// snapshots is what they show, by id.
	snapshots map[string][]byte
}

func openChain(ctx context.Context, reg *block.Registry) (*block.Image, error) {
	return block.Open(ctx, reg, block.Source{Filename: "recorded:x", Format: "qcow2"},
		block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll, Chain: block.ChainUse{WriteBacking: true}})
}

func newChainWorld(t *testing.T, cs chainCase, seed uint64) *chainWorld {
	ctx := t.Context()
	w := &chainWorld{r: testkit.Rand(seed), memory: mem.New().(*mem.Driver), dev: &recorded{}}
	w.reg = block.NewRegistry(raw.New(), qcow2.New(), w.memory, w.dev)
	base, other := make([]byte, chainSize*3/4), make([]byte, chainSize)
	testkit.FillDisk(w.r, base)
	copy(other, base)
	for range 20 {
		off := w.r.IntN(chainSize/sector-16) * sector
		testkit.Fill(w.r, other[off:off+16*sector])
	}
	for i, content := range [][]byte{base, base, other} {
		d := mem.NewDisk(int64(len(content)))
		if _, err := d.WriteAt(ctx, content, 0); err != nil {
			t.Fatal(err)
		}
		w.memory.Add(strings.TrimPrefix(chainNames[i], "mem:"), d)
	}
	o := cs.options.Clone()
	o["backing_file"], o["backing_fmt"] = chainNames[0], "raw"
	if err := block.Create(ctx, w.reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: chainSize, Options: o, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	w.dev.disk = w.memory.Disk("img")
	img, err := openChain(ctx, w.reg)
	if err != nil {
		t.Fatal(err)
	}
	h := history{start: make([]byte, chainSize)}
	copy(h.start, base)
	operate(t, w.r, scenario{size: chainSize}, img, w.dev.rec, &h)
	w.snapshots = map[string][]byte{}
	for i := 0; i < 3 && cs.snapshots; i++ {
		// Two in a row share all their tables.
		if i != 1 {
			operate(t, w.r, scenario{size: chainSize}, img, w.dev.rec, &h)
		}
		id, err := img.Snapshots().Create(ctx, driver.SnapshotRequest{Name: fmt.Sprint("s", i)})
		if err != nil {
			t.Fatal(err)
		}
		content := make([]byte, chainSize)
		if _, err := img.ReadAt(ctx, content, 0); err != nil {
			t.Fatal(err)
		}
		w.snapshots[id] = content
	}
	if cs.snapshots {
		operate(t, w.r, scenario{size: chainSize}, img, w.dev.rec, &h)
	}
	w.want = make([]byte, chainSize)
	if _, err := img.ReadAt(ctx, w.want, 0); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	w.initial = w.dev.disk.Clone()
	return w
}

// judge looks at a disk that a crash or an error left.
func (w *chainWorld) judge(ctx context.Context, left *mem.Disk) error {
	reg := block.NewRegistry(raw.New(), qcow2.New(), w.memory, &recorded{disk: left})
	if err := judgeChain(ctx, reg, w.want); err != nil {
		return err
	}
	for id, want := range w.snapshots {
		img, err := block.Open(ctx, reg, block.Source{Filename: "recorded:x", Format: "qcow2"}, block.OpenOptions{Gate: driver.AllowAll, Snapshot: id})
		if err != nil {
			return fmt.Errorf("snapshot %s does not open: %w", id, err)
		}
		got := make([]byte, img.Size())
		_, err = img.ReadAt(ctx, got, 0)
		if err = errors.Join(err, img.Close(ctx)); err != nil {
			return fmt.Errorf("snapshot %s: %w", id, err)
		}
		if !bytes.Equal(got, want) {
			return fmt.Errorf("snapshot %s shows other bytes than before", id)
		}
	}
	return nil
}

func runChain(t *testing.T, cs chainCase, seed uint64) {
	ctx := t.Context()
	w := newChainWorld(t, cs, seed)
	img, err := openChain(ctx, w.reg)
	if err != nil {
		t.Fatal(err)
	}
	rec := w.dev.rec
	if err := cs.do(ctx, &chainRun{r: w.r, reg: w.reg, img: img}); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	events := rec.Events()
	for i := range 80 {
		n := w.r.IntN(len(events) + 1)
		if i == 0 {
			n = len(events)
		}
		left := w.initial.Clone()
		if err := testkit.Replay(ctx, left, testkit.Crash(w.r, events, n)); err != nil {
			t.Fatal(err)
		}
		if err := w.judge(ctx, left); err != nil {
			dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-chain-%d.qcow2", seed))
			save(t, left, dump)
			t.Fatalf("seed %d, crash after event %d of %d: %v (image in %s)", seed, n, len(events), err, dump)
		}
	}
}

// failing is a device on which one write or flush fails.
type failing struct {
	recorded
	after atomic.Int64 // changes until the one that fails
}

type failingNode struct {
	driver.Storage
	d *failing
}

func (d *failing) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	return &failingNode{Storage: d.disk, d: d}, nil
}

func (n *failingNode) fail() error {
	if n.d.after.Add(-1) == -1 {
		return errors.New("injected failure")
	}
	return nil
}

func (n *failingNode) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := n.fail(); err != nil {
		// Some of it is written.
		_, _ = n.Storage.WriteAt(ctx, p[:len(p)/2/sector*sector], off)
		return 0, err
	}
	return n.Storage.WriteAt(ctx, p, off)
}

func (n *failingNode) Flush(ctx context.Context) error {
	if err := n.fail(); err != nil {
		return err
	}
	return n.Storage.Flush(ctx)
}

func (n *failingNode) Resize(ctx context.Context, size int64, opt driver.ResizeOptions) error {
	return n.Storage.(driver.Resizer).Resize(ctx, size, opt)
}

// TestChainFailures lets each operation fail at every write in turn. The image is
// closed then, and what is on disk is judged.
func TestChainFailures(t *testing.T) {
	for _, cs := range chainCases {
		t.Run(cs.name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			w := newChainWorld(t, cs, 9)
			for n := int64(0); n < 400; n += 1 + n/20 {
				dev := &failing{recorded: recorded{disk: w.initial.Clone()}}
				reg := block.NewRegistry(raw.New(), qcow2.New(), w.memory, dev)
				dev.after.Store(1 << 60)
				img, err := openChain(ctx, reg)
				if err != nil {
					t.Fatal(err)
				}
				dev.after.Store(n)
				err = cs.do(ctx, &chainRun{r: w.r, reg: reg, img: img})
				if e := img.Close(ctx); err == nil {
					err = e
				}
				if jerr := w.judge(ctx, dev.disk); jerr != nil {
					t.Fatalf("failure of change %d (%v): %v", n, err, jerr)
				}
				if dev.after.Load() >= 0 {
					if err != nil {
						t.Fatalf("fails without a reason: %v", err)
					}
					break // done before the failure was due
				}
			}
		})
	}
}

// judgeChain opens what a crash left, checks it and looks at what it shows.
func judgeChain(ctx context.Context, reg *block.Registry, want []byte) error {
	img, err := openChain(ctx, reg)
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	defer img.Close(ctx)
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		return fmt.Errorf("check: %w", err)
	}
	if res.Corruptions != 0 || res.CheckErrors != 0 {
		return fmt.Errorf("check finds %+v: %s", *res, strings.Join(lines, "; "))
	}
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if len(got) != len(want) {
		return fmt.Errorf("the disk has %d bytes", len(got))
	}
	for off := 0; off < len(got); off += sector {
		if !bytes.Equal(got[off:off+sector], want[off:off+sector]) {
			return fmt.Errorf("the sector at %d shows other bytes than before", off)
		}
	}
	return nil
}
