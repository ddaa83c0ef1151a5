// Package model changes qcow2 images at random through the library, by every
// operation that there is, and compares what they hold with models in memory:
// writes of all kinds, snapshots, bitmaps, resizing, commit, rebase, amendments,
// reopening, crashes. After each batch of operations our check and QEMU's
// must find nothing, and QEMU must read what the model holds.
package model

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// canEncrypt lets some of the images be encrypted.
const canEncrypt = true

const secretID, secretText = "s", "a passphrase"

// secrets implements driver.Objects.
type secrets struct{}

func (secrets) Object(id string) driver.Object {
	return driver.Secrets{secretID: secretText}.Object(id)
}

// top is the protocol through which the top image's file is opened, recorded.
type top struct {
	disk *mem.Disk
	rec  *testkit.Recorder
}

func (d *top) Desc() *driver.Desc {
	return &driver.Desc{Name: "top", Kind: driver.KindProtocol, Schemes: []string{"top"},
		OpenOptions: opts.SchemaOf(struct {
			Filename string `opt:"filename"`
		}{})}
}

func (d *top) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	d.rec = testkit.NewRecorder(d.disk)
	return d.rec, nil
}

// kept is a snapshot and what it must hold.
type kept struct {
	id, name string
	content  *testkit.Model
}

// world is an image, what it rests on, and what all of it must hold.
type world struct {
	seed uint64
	r    *rand.Rand
	log  []string
	did  []string // what the line of the log that is being done did
	// initial is the file as it was when the image was opened.
	initial *mem.Disk
	// onDiscard, if not nil, is called after a discard.
	onDiscard func(off, n int64)
	// careful: read everything after each operation.
	careful bool
	ops     int

	mem *mem.Driver
	top *top
	reg *block.Registry

	options  opts.Dict // of the top image
	v2       bool
	snapshot bool // the image can have snapshots
	dataFile bool
	encrypt  string // "", "aes", "luks"
	// backing is the name in the header: "", "mem:base" or "mem:other".
	backing string
	layers  map[string]*layer

	img     *block.Image
	active  *testkit.Model
	kept    []kept
	next    int // number of the next snapshot
	bitmaps []*bitmap

	// What a crash may leave: the disk when the last flush was done, and every
	// change since.
	atOpen  *testkit.Model
	durable *testkit.Model
	later   []change
}

// layer is a backing file.
type layer struct {
	format  string
	content *testkit.Model
}

// change is what one request may have done to a range.
type change struct {
	off  int64
	data []byte
}

func pick[T any](r *rand.Rand, from ...T) T { return from[r.IntN(len(from))] }

// newWorld makes an image whose features, size and backing file the seed decides.
func newWorld(ctx context.Context, seed uint64) (*world, error) {
	w := &world{seed: seed, r: testkit.Rand(seed), mem: mem.New().(*mem.Driver), top: &top{}, layers: map[string]*layer{}, snapshot: true}
	w.reg = block.NewRegistry(raw.New(), qcow2.New(), w.mem, w.top)
	r := w.r
	cluster := int64(512) << r.IntN(8)
	o := opts.Dict{"cluster_size": fmt.Sprint(cluster)}
	size := min(4<<20, cluster*(16+r.Int64N(500)))
	if r.IntN(2) == 0 {
		size -= 512 * (1 + r.Int64N(cluster/512))
	}
	switch k := r.IntN(10); {
	case k < 2:
		o["compat"] = "0.10"
		w.v2 = true
	case k < 5:
		bits := 1 << r.IntN(7)
		o["refcount_bits"] = fmt.Sprint(bits)
		w.snapshot = bits > 2
	}
	if !w.v2 {
		switch r.IntN(5) {
		case 0:
			if cluster < 16384 {
				o["cluster_size"] = "16384"
			}
			o["extended_l2"] = "on"
		case 1:
			o["lazy_refcounts"] = "on"
		case 2:
			o["compression_type"] = "zstd"
		}
		if r.IntN(8) == 0 {
			w.dataFile, w.snapshot = true, false
			o["data_file"] = "mem:data"
		}
	}
	if r.IntN(4) == 0 {
		o["preallocation"] = pick(r, "metadata", "falloc", "full")
	}
	if canEncrypt && r.IntN(4) == 0 {
		w.encrypt = pick(r, "aes", "luks", "luks")
		o["encrypt.format"], o["encrypt.key-secret"] = w.encrypt, secretID
		if w.encrypt == "luks" {
			o["encrypt.iter-time"] = "0"
		}
		delete(o, "compression_type")
	}
	w.active = testkit.NewModel(size)
	if err := w.makeLayers(ctx, size); err != nil {
		return nil, err
	}
	if r.IntN(2) == 0 && !w.dataFile {
		w.backing = "mem:base"
		delete(o, "preallocation")
		o["backing_file"], o["backing_fmt"] = w.backing, w.layers[w.backing].format
		w.showThrough()
	}
	w.options = o
	w.note("seed %d: %d bytes, %v, backing %q", seed, size, o, w.backing)
	err := block.Create(ctx, w.reg, block.CreateRequest{Filename: "mem:top", Format: "qcow2", Size: size, Options: o.Clone(), Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		return nil, w.fail("create: %w", err)
	}
	w.top.disk = w.mem.Disk("top")
	if w.encrypt != "" && o["preallocation"] != nil {
		return w, w.learn(ctx)
	}
	return w, nil
}

// learn takes what the disk reads for what it holds: room that was preallocated in
// an encrypted image reads as noise.
func (w *world) learn(ctx context.Context) error {
	img, err := block.Open(ctx, w.reg, w.source(), block.OpenOptions{Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		return w.fail("open: %w", err)
	}
	defer img.Close(ctx)
	p := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, p, 0); err != nil {
		return w.fail("read: %w", err)
	}
	w.active.Write(p, 0)
	return nil
}

// makeLayers makes two possible backing files, one of them raw.
func (w *world) makeLayers(ctx context.Context, size int64) error {
	for i, name := range []string{"mem:base", "mem:other"} {
		l := &layer{format: pick(w.r, "raw", "qcow2")}
		if i == 1 {
			l.format = "raw"
		}
		n := size
		if w.r.IntN(2) == 0 {
			n = max(512, (size/2+w.r.Int64N(size))&^511)
		}
		n = max(512, n&^511)
		l.content = testkit.NewModel(n)
		req := block.CreateRequest{Filename: name, Format: l.format, Size: n, Options: opts.Dict{}, Gate: driver.AllowAll}
		if l.format == "qcow2" {
			req.Options["cluster_size"] = fmt.Sprint(512 << w.r.IntN(8))
		}
		if err := block.Create(ctx, w.reg, req); err != nil {
			return w.fail("create %s: %w", name, err)
		}
		img, err := block.Open(ctx, w.reg, block.Source{Filename: name, Format: l.format}, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Gate: driver.AllowAll})
		if err != nil {
			return w.fail("open %s: %w", name, err)
		}
		p := make([]byte, n)
		testkit.FillDisk(w.r, p)
		if _, err := img.WriteAt(ctx, p, 0); err != nil {
			return w.fail("fill %s: %w", name, err)
		}
		l.content.Write(p, 0)
		if err := img.Close(ctx); err != nil {
			return w.fail("close %s: %w", name, err)
		}
		w.layers[name] = l
	}
	return nil
}

// showThrough makes the disk what an empty image over the backing file shows.
func (w *world) showThrough() {
	size := w.active.Size()
	w.active = testkit.NewModel(size)
	if l := w.layers[w.backing]; l != nil {
		n := min(size, l.content.Size())
		w.active.Write(l.content.Read(0, n), 0)
	}
}

func (w *world) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.log, w.did = append(w.log, text), append(w.did, text)
	if len(w.log) > 4000 {
		// The first line says what the world is.
		w.log = slices.Delete(w.log, 1, 2000)
	}
}

// fail returns an error that tells how to get there again.
func (w *world) fail(format string, args ...any) error {
	tail := w.log[max(1, len(w.log)-40):]
	return fmt.Errorf("%w\n%s\nlast operations:\n%s", fmt.Errorf(format, args...), w.log[0], strings.Join(tail, "\n"))
}

// open opens the top image for writing, with options that the seed decides.
func (w *world) open(ctx context.Context, writeBacking bool) error {
	d := opts.Dict{}
	if w.encrypt != "" {
		d["encrypt.format"], d["encrypt.key-secret"] = w.encrypt, secretID
	}
	if w.r.IntN(3) == 0 {
		d["l2-cache-size"], d["l2-cache-entry-size"], d["refcount-cache-size"] = "2k", "512", "1k"
	}
	if w.r.IntN(6) == 0 && !w.v2 {
		d["discard-no-unref"] = "on"
	}
	if w.r.IntN(6) == 0 && !w.v2 {
		d["lazy-refcounts"] = "on"
	}
	img, err := block.Open(ctx, w.reg, block.Source{Filename: "top:x", Format: "qcow2", Options: d},
		block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Chain: block.ChainUse{WriteBacking: writeBacking}, Gate: driver.AllowAll, Objects: secrets{}})
	if err != nil {
		return w.fail("open: %w", err)
	}
	w.note("open %v", d)
	w.img = img
	w.flushed()
	w.atOpen = w.durable
	for _, b := range w.bitmaps {
		b.restarted = false
	}
	return nil
}

// flushed says that all there is is durable.
func (w *world) flushed() {
	w.durable, w.later = w.active.Clone(), nil
}

func (w *world) close(ctx context.Context) error {
	err := w.img.Close(ctx)
	w.img = nil
	if err != nil {
		return w.fail("close: %w", err)
	}
	w.note("close")
	return nil
}
