package crash

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
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
	do      func(ctx context.Context, t *testing.T, c *chainRun)
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

func (c *chainRun) amend(ctx context.Context, t *testing.T, list string) {
	t.Helper()
	d := opts.Dict{}
	if err := d.ParseList(list, ""); err != nil {
		t.Fatal(err)
	}
	if err := ops.Amend(ctx, ops.AmendJob{Image: c.img, Options: d}); err != nil {
		t.Fatalf("%s: %v", list, err)
	}
}

func doChangeBacking(ctx context.Context, t *testing.T, c *chainRun) {
	for range 6 {
		i := c.r.IntN(2)
		name := chainNames[i]
		if err := c.img.ChangeBacking(ctx, driver.BackingRef{Filename: name, Format: "raw"}); err != nil {
			t.Fatal(err)
		}
	}
}

func doRefcountBits(ctx context.Context, t *testing.T, c *chainRun) {
	for _, bits := range []string{"64", "1", "8", "16", "2", "32"} {
		c.amend(ctx, t, "refcount_bits="+bits)
		scribble(ctx, t, c)
	}
}

// scribble writes over what the image shows with the same bytes, so that room
// is allocated.
func scribble(ctx context.Context, t *testing.T, c *chainRun) {
	t.Helper()
	for range 8 {
		off := c.r.Int64N(chainSize/sector) * sector
		p := make([]byte, min(chainSize-off, (1+c.r.Int64N(60))*sector))
		if _, err := c.img.ReadAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
		if _, err := c.img.WriteAt(ctx, p, off); err != nil {
			t.Fatal(err)
		}
	}
}

func doCompat(ctx context.Context, t *testing.T, c *chainRun) {
	c.amend(ctx, t, "compat=0.10")
	scribble(ctx, t, c)
	c.amend(ctx, t, "compat=1.1,lazy_refcounts=on")
	c.amend(ctx, t, "lazy_refcounts=off")
	c.amend(ctx, t, "compat=0.10")
	c.amend(ctx, t, "compat=1.1,refcount_bits=4")
}

// doCommit empties the image after its backing file has taken up all.
func doCommit(ctx context.Context, t *testing.T, c *chainRun) {
	if err := ops.Commit(ctx, ops.CommitJob{Top: c.img, Base: c.img.Backing()}); err != nil {
		t.Fatal(err)
	}
	scribble(ctx, t, c)
}

func doRebase(ctx context.Context, t *testing.T, c *chainRun) {
	other, err := block.Open(ctx, c.reg, block.Source{Filename: chainNames[2], Format: "raw"}, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(ctx)
	job := ops.RebaseJob{Image: c.img, New: other, Backing: driver.BackingRef{Filename: chainNames[2], Format: "raw"},
		Compress: c.r.IntN(2) == 0, Workers: 2}
	if err := ops.Rebase(ctx, job); err != nil {
		t.Fatal(err)
	}
}

func doRebaseNone(ctx context.Context, t *testing.T, c *chainRun) {
	if err := ops.Rebase(ctx, ops.RebaseJob{Image: c.img, Workers: 2}); err != nil {
		t.Fatal(err)
	}
}

var chainCases = []chainCase{
	{name: "change backing", options: opts.Dict{}, do: doChangeBacking},
	{name: "change backing, small clusters", options: opts.Dict{"cluster_size": "2048"}, do: doChangeBacking},
	{name: "change backing, version 2", options: opts.Dict{"compat": "0.10"}, do: doChangeBacking},
	{name: "refcount width", options: opts.Dict{"cluster_size": "1024"}, do: doRefcountBits},
	{name: "refcount width, 512-byte clusters", options: opts.Dict{"cluster_size": "512"}, do: doRefcountBits},
	{name: "refcount width, lazy refcounts", options: opts.Dict{"cluster_size": "4096", "lazy_refcounts": "on"}, do: doRefcountBits},
	{name: "compat", options: opts.Dict{"cluster_size": "4096"}, do: doCompat},
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

func runChain(t *testing.T, cs chainCase, seed uint64) {
	ctx := t.Context()
	r := testkit.Rand(seed)
	memory := mem.New().(*mem.Driver)
	dev := &recorded{}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, dev)
	base, other := make([]byte, chainSize*3/4), make([]byte, chainSize)
	testkit.FillDisk(r, base)
	copy(other, base)
	for range 20 {
		off := r.IntN(chainSize/sector-16) * sector
		testkit.Fill(r, other[off:off+16*sector])
	}
	for i, content := range [][]byte{base, base, other} {
		d := mem.NewDisk(int64(len(content)))
		if _, err := d.WriteAt(ctx, content, 0); err != nil {
			t.Fatal(err)
		}
		memory.Add(strings.TrimPrefix(chainNames[i], "mem:"), d)
	}
	o := cs.options.Clone()
	o["backing_file"], o["backing_fmt"] = chainNames[0], "raw"
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: chainSize, Options: o, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.Disk("img")
	open := func(reg *block.Registry) (*block.Image, error) {
		return block.Open(ctx, reg, block.Source{Filename: "recorded:x", Format: "qcow2"},
			block.OpenOptions{Write: true, Resize: true, Unmap: true, Gate: driver.AllowAll, WriteBacking: true})
	}
	img, err := open(reg)
	if err != nil {
		t.Fatal(err)
	}
	h := history{start: make([]byte, chainSize)}
	copy(h.start, base)
	operate(t, r, scenario{size: chainSize}, img, dev.rec, &h)
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	initial := dev.disk.Clone()
	if img, err = open(reg); err != nil {
		t.Fatal(err)
	}
	rec := dev.rec
	want := make([]byte, chainSize)
	if _, err := img.ReadAt(ctx, want, 0); err != nil {
		t.Fatal(err)
	}
	cs.do(ctx, t, &chainRun{r: r, reg: reg, img: img})
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	events := rec.Events()
	for i := range 80 {
		n := r.IntN(len(events) + 1)
		if i == 0 {
			n = len(events)
		}
		left := initial.Clone()
		if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
			t.Fatal(err)
		}
		if err := judgeChain(ctx, block.NewRegistry(raw.New(), qcow2.New(), memory, &recorded{disk: left}), open, want); err != nil {
			dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-chain-%d.qcow2", seed))
			save(t, left, dump)
			t.Fatalf("seed %d, crash after event %d of %d: %v (image in %s)", seed, n, len(events), err, dump)
		}
	}
}

// judgeChain opens what a crash left, checks it and looks at what it shows.
func judgeChain(ctx context.Context, reg *block.Registry, open func(*block.Registry) (*block.Image, error), want []byte) error {
	img, err := open(reg)
	if err != nil {
		return fmt.Errorf("does not open: %w", err)
	}
	defer img.Close(ctx)
	var lines []string
	res, err := img.Node().(driver.Checker).Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
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
