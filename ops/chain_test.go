package ops_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

// chain is a backing chain with random layers, from the base up.
type chain struct {
	*world
	r      *rand.Rand
	prefix string
	layers []layer
}

type layer struct{ name, format string }

// newChain makes n layers whose sizes, formats and contents differ.
func newChain(w *world, r *rand.Rand, prefix string, n int) *chain {
	w.t.Helper()
	c := &chain{world: w, r: r, prefix: prefix}
	for i := range n {
		c.addLayer(i)
	}
	return c
}

func (c *chain) addLayer(i int) {
	c.t.Helper()
	l := layer{name: fmt.Sprintf("%s%d", c.prefix, i), format: "qcow2"}
	size := (512<<10 + c.r.Int64N(1<<20)) &^ 511
	o := opts.Dict{}
	if i == 0 && c.r.IntN(2) == 0 {
		l.format = "raw"
	} else {
		o = c.options(l.name)
	}
	if i > 0 {
		below := c.layers[i-1]
		o["backing_file"], o["backing_fmt"] = "mem:"+below.name, below.format
	}
	img := c.create(l.name, l.format, size, o)
	c.layers = append(c.layers, l)
	c.scribble(img)
	if err := img.Close(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
}

func (c *chain) options(name string) opts.Dict {
	switch c.r.IntN(6) {
	case 0:
		return opts.Dict{"compat": "0.10", "cluster_size": "4096"}
	case 1:
		return opts.Dict{"extended_l2": "on", "cluster_size": "32768"}
	case 2:
		return opts.Dict{"cluster_size": "512", "refcount_bits": "1"}
	case 3:
		return opts.Dict{"data_file": "mem:" + name + "-data", "cluster_size": "8192"}
	case 4:
		return opts.Dict{"lazy_refcounts": "on", "compression_type": "zstd", "cluster_size": "16384"}
	}
	return opts.Dict{}
}

// scribble writes data, zeroes and compressed clusters at random.
func (c *chain) scribble(img *block.Image) {
	c.t.Helper()
	ctx := c.t.Context()
	cluster := img.Limits().ClusterSize
	for range 12 {
		off := c.r.Int64N(img.Size()/512) * 512
		n := min(img.Size()-off, (1+c.r.Int64N(200))*512)
		p := make([]byte, n)
		var err error
		switch c.r.IntN(5) {
		case 0:
			err = img.WriteZeroes(ctx, off, n, driver.ZeroFlags(c.r.IntN(2)))
		case 1:
			_, err = img.WriteAt(ctx, p, off)
		case 2:
			if cluster == 0 {
				continue
			}
			off = off / cluster * cluster
			st, serr := img.StatusLayer(ctx, off, cluster)
			if serr != nil || st.Allocated || st.Length < cluster {
				continue
			}
			enc, ok, eerr := img.Encode(nil, bytes.Repeat([]byte{byte(off >> 9)}, int(cluster)))
			if eerr != nil || !ok {
				continue
			}
			if err = img.WriteEncoded(ctx, off, enc); errors.Is(err, driver.ErrUnsupported) {
				continue
			}
		default:
			testkit.Fill(c.r, p)
			_, err = img.WriteAt(ctx, p, off)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
}

// contents reads what a layer shows.
func (c *chain) contents(i int) []byte {
	c.t.Helper()
	img := c.open(c.layers[i].name, c.layers[i].format, false)
	defer img.Close(c.t.Context())
	p := make([]byte, img.Size())
	if _, err := img.ReadAt(c.t.Context(), p, 0); err != nil {
		c.t.Fatal(err)
	}
	return p
}

// verify checks the metadata of a layer and what it shows.
func (c *chain) verify(i int, want []byte) {
	c.t.Helper()
	if got := c.contents(i); !bytes.Equal(got, want) {
		at := 0
		for at < min(len(got), len(want)) && got[at] == want[at] {
			at++
		}
		c.t.Errorf("layer %d of %d bytes (want %d) differs at %d", i, len(got), len(want), at)
	}
	img := c.open(c.layers[i].name, c.layers[i].format, false)
	defer img.Close(c.t.Context())
	if k, ok := img.Tree().Node().(driver.Checker); ok {
		res, err := k.Check(c.t.Context(), driver.CheckFix{}, func(line string) { c.t.Log(line) }, nil)
		if err != nil || res.Corruptions+res.Leaks+res.CheckErrors != 0 {
			c.t.Errorf("layer %d: check finds %+v, %v", i, res, err)
		}
	}
}

func (c *chain) openTop(o block.OpenOptions) *block.Image {
	c.t.Helper()
	top := c.layers[len(c.layers)-1]
	o.Write, o.Unmap, o.Gate = true, true, driver.AllowAll
	img, err := block.Open(c.t.Context(), c.reg, block.Source{Filename: "mem:" + top.name, Format: top.format}, o)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { img.Close(context.Background()) })
	return img
}

func TestCommitChains(t *testing.T) {
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := testkit.Rand(seed)
			c := newChain(newWorld(t), r, "l", 2+r.IntN(3))
			top := len(c.layers) - 1
			base := top - 1
			o := block.OpenOptions{Chain: block.ChainUse{WriteBacking: true}}
			keep := r.IntN(3) == 0
			if keep {
				base = r.IntN(top)
				o.Chain.WriteBase = "mem:" + c.layers[base].name
			}
			want, was := c.contents(top), c.contents(base)
			img := c.openTop(o)
			job := ops.CommitJob{Top: img, Base: img.Backing(), Keep: keep, Workers: 1 + r.IntN(4)}
			if keep {
				var err error
				if job.Base, err = img.Tree().FindBacking(t.Context(), o.Chain.WriteBase); err != nil || job.Base == nil {
					t.Fatalf("the base is not found: %v", err)
				}
			}
			if err := ops.Commit(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			if err := img.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			// What the base has beyond the end of the top stays.
			all := want
			if len(was) > len(want) {
				all = append(bytes.Clone(want), was[len(want):]...)
			}
			c.verify(base, all)
			if !keep {
				c.verify(top, want)
				c.expectEmpty(top)
			} else if base == top-1 {
				c.verify(top, want)
			}
		})
	}
}

// expectEmpty says that a layer holds nothing itself.
func (c *chain) expectEmpty(i int) {
	c.t.Helper()
	img := c.open(c.layers[i].name, c.layers[i].format, false)
	defer img.Close(c.t.Context())
	for off := int64(0); off < img.Size(); {
		st, err := img.StatusLayer(c.t.Context(), off, img.Size()-off)
		if err != nil {
			c.t.Fatal(err)
		}
		if st.Allocated {
			c.t.Fatalf("layer %d holds %d bytes at %d", i, st.Length, off)
		}
		off += st.Length
	}
}

func TestRebaseChains(t *testing.T) {
	for seed := range uint64(80) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			r := testkit.Rand(seed)
			w := newWorld(t)
			c := newChain(w, r, "l", 2+r.IntN(3))
			top := len(c.layers) - 1
			want := c.contents(top)
			img := c.openTop(block.OpenOptions{})
			job := ops.RebaseJob{Image: img, Workers: 1 + r.IntN(4), Compress: r.IntN(3) == 0}
			if job.Compress {
				if info, err := img.Info(t.Context()); err != nil || info.Specific == nil || c.hasDataFile(img) {
					job.Compress = false
				}
			}
			switch r.IntN(3) {
			case 0: // none
			case 1: // a layer of the chain
				i := r.IntN(top)
				job.Backing = driver.BackingRef{Filename: "mem:" + c.layers[i].name, Format: c.layers[i].format}
				var err error
				if job.New, err = img.Tree().FindBacking(t.Context(), job.Backing.Filename); err != nil || job.New == nil {
					t.Fatalf("the layer is not found: %v", err)
				}
			case 2: // another chain
				d := newChain(w, r, "m", 1+r.IntN(2))
				last := d.layers[len(d.layers)-1]
				job.Backing = driver.BackingRef{Filename: "mem:" + last.name, Format: last.format}
				job.New = w.open(last.name, last.format, false)
			}
			if err := ops.Rebase(t.Context(), job); err != nil {
				t.Fatal(err)
			}
			if err := img.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.verify(top, want)
		})
	}
}

func (c *chain) hasDataFile(img *block.Image) bool {
	for _, ch := range img.Tree().Children() {
		if ch.Role == "data-file" {
			return true
		}
	}
	return false
}

func TestRebaseEqualCopiesNothing(t *testing.T) {
	w := newWorld(t)
	a := w.create("a", "qcow2", 4<<20, nil)
	content := w.fill(a, 1)
	b := w.create("b", "raw", 4<<20, nil)
	if _, err := b.WriteAt(t.Context(), content, 0); err != nil {
		t.Fatal(err)
	}
	for _, img := range []*block.Image{a, b} {
		if err := img.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	top := w.create("top", "qcow2", 4<<20, opts.Dict{"backing_file": "mem:a", "backing_fmt": "qcow2"})
	err := ops.Rebase(t.Context(), ops.RebaseJob{Image: top, New: w.open("b", "raw", false), Backing: driver.BackingRef{Filename: "mem:b", Format: "raw"}})
	if err != nil {
		t.Fatal(err)
	}
	st, err := top.StatusLayer(t.Context(), 0, top.Size())
	if err != nil || st.Allocated || st.Length != top.Size() {
		t.Errorf("something was copied: %+v, %v", st, err)
	}
}

// TestRebaseFromNone: version 2 has no zero clusters, so that zeroes under which
// no backing file was must be written when there comes to be one.
func TestRebaseFromNone(t *testing.T) {
	for _, compat := range []string{"0.10", "1.1"} {
		w := newWorld(t)
		base := w.create("base", "raw", 1<<20, nil)
		w.fill(base, 1)
		if err := base.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		top := w.create("top", "qcow2", 1<<20, opts.Dict{"compat": compat})
		err := ops.Rebase(t.Context(), ops.RebaseJob{Image: top, New: w.open("base", "raw", false), Backing: driver.BackingRef{Filename: "mem:base", Format: "raw"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := top.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		top = w.open("top", "qcow2", false)
		got := make([]byte, top.Size())
		if _, err := top.ReadAt(t.Context(), got, 0); err != nil {
			t.Fatal(err)
		}
		if len(bytes.Trim(got, "\x00")) != 0 {
			t.Errorf("compat=%s: the new backing file shows", compat)
		}
	}
}

func TestCommitCancelled(t *testing.T) {
	w := newWorld(t)
	base := w.create("base", "raw", 4<<20, nil)
	if err := base.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := &chain{world: w, layers: []layer{{"base", "raw"}, {"top", "qcow2"}}}
	top := w.create("top", "qcow2", 4<<20, opts.Dict{"backing_file": "mem:base", "backing_fmt": "raw"})
	want := w.fill(top, 3)
	if err := top.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	img := c.openTop(block.OpenOptions{Chain: block.ChainUse{WriteBacking: true}})
	ctx, cancel := context.WithCancel(t.Context())
	err := ops.Commit(ctx, ops.CommitJob{Top: img, Base: img.Backing(), Workers: 1, Progress: func(p ops.Progress) {
		if p.Done > 1<<20 {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.verify(1, want)
}

func TestAmendKeepsContents(t *testing.T) {
	steps := []string{"refcount_bits=8", "refcount_bits=64", "refcount_bits=16,compat=0.10", "compat=1.1,lazy_refcounts=on",
		"refcount_bits=4", "lazy_refcounts=off", "size=3M", "size=3M,refcount_bits=32"}
	for _, backing := range []bool{false, true} {
		w := newWorld(t)
		o := opts.Dict{"cluster_size": "4096"}
		if backing {
			w.fill(w.create("base", "raw", 2<<20, nil), 7)
			o["backing_file"], o["backing_fmt"] = "mem:base", "raw"
		}
		top := w.create("top", "qcow2", 2<<20, o)
		c := &chain{world: w, r: testkit.Rand(5), layers: []layer{{"top", "qcow2"}}}
		c.scribble(top)
		if err := top.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want := c.contents(0)
		for _, step := range steps {
			d := opts.Dict{}
			if err := d.ParseList(step, ""); err != nil {
				t.Fatal(err)
			}
			img := w.open("top", "qcow2", true)
			if err := ops.Amend(t.Context(), ops.AmendJob{Image: img, Options: d}); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			// The image is fit for use without being opened anew.
			p := want[:100<<10]
			if _, err := img.WriteAt(t.Context(), p, 0); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			if err := img.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if d["size"] != nil {
				want = append(want[:2<<20:2<<20], make([]byte, 1<<20)...)
			}
			c.verify(0, want)
		}
	}
}
