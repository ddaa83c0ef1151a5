// Package crash replays what a crash could leave of an image: recorded writes
// are cut off anywhere, and those behind the last flush are lost or torn in any
// combination. The image must open, check with leaks at most, and hold all that
// was flushed.
package crash

import (
	"bytes"
	"cmp"
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
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const sector = 512

// recorded is a protocol whose only disk is recorded.
type recorded struct {
	disk *mem.Disk
	rec  *testkit.Recorder // of the last Open for writing
}

func (d *recorded) Desc() *driver.Desc {
	return &driver.Desc{Name: "recorded", Kind: driver.KindProtocol, Schemes: []string{"recorded"},
		OpenOptions: opts.SchemaOf(struct {
			Filename string `opt:"filename"`
		}{})}
}

func (d *recorded) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	d.rec = testkit.NewRecorder(d.disk)
	return d.rec, nil
}

// scenario is one kind of image.
type scenario struct {
	name     string
	format   string // "": qcow2
	options  opts.Dict
	size     int64
	backing  bool
	compress bool
	resize   bool
	grow     bool  // resize, but to larger sizes only
	sectors  int64 // of the longest request, default 40
	key      bool  // the image is encrypted
	once     bool  // one seed is enough
}

var scenarios = []scenario{
	{name: "default", size: 4 << 20, options: opts.Dict{}},
	{name: "512-byte clusters", size: 256 << 10, options: opts.Dict{"cluster_size": "512"}, resize: true},
	{name: "version 2", size: 512 << 10, options: opts.Dict{"compat": "0.10", "cluster_size": "1024"}, resize: true},
	{name: "version 2 with backing file", size: 512 << 10, options: opts.Dict{"compat": "0.10", "cluster_size": "1024"}, backing: true},
	{name: "backing file", size: 1 << 20, options: opts.Dict{"cluster_size": "4096"}, backing: true, resize: true},
	{name: "1-bit refcounts", size: 512 << 10, options: opts.Dict{"cluster_size": "1024", "refcount_bits": "1"}, resize: true},
	{name: "64-bit refcounts", size: 256 << 10, options: opts.Dict{"cluster_size": "512", "refcount_bits": "64"}, resize: true},
	{name: "subclusters", size: 2 << 20, options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, resize: true},
	{name: "subclusters with backing file", size: 2 << 20, options: opts.Dict{"cluster_size": "16384", "extended_l2": "on"}, backing: true},
	{name: "lazy refcounts", size: 512 << 10, options: opts.Dict{"cluster_size": "1024", "lazy_refcounts": "on"}},
	{name: "compressed", size: 1 << 20, options: opts.Dict{"cluster_size": "4096"}, compress: true, backing: true},
	{name: "refcount table growth", size: 8 << 20, options: opts.Dict{"cluster_size": "512", "refcount_bits": "64"}, sectors: 600},
	{name: "preallocated metadata", size: 512 << 10, options: opts.Dict{"cluster_size": "1024", "preallocation": "metadata"}, resize: true},
	{name: "AES with backing file", size: 512 << 10, options: opts.Dict{"cluster_size": "4096", "encrypt.format": "aes", "encrypt.key-secret": "s"},
		backing: true, resize: true, key: true},
	{name: "LUKS with subclusters", size: 1 << 20, options: opts.Dict{"cluster_size": "16384", "extended_l2": "on", "encrypt.format": "luks",
		"encrypt.key-secret": "s", "encrypt.cipher-alg": "aes-128", "encrypt.iter-time": "0"}, resize: true, key: true, once: true},
}

// secrets are secrets by id.
type secrets = driver.Secrets

var keys = secrets{"s": "abc"}

// change is what one operation may have done to a range of the disk.
type change struct {
	event int // events before it began
	off   int64
	data  []byte
	size  int64 // > 0: a resize to that size
}

// history is what was done, for judging a crash.
type history struct {
	start   []byte
	changes []change
	flushes []flush
}

// flush says that all changes before it are durable once event is on disk.
type flush struct{ event, changes int }

func TestQcow2(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			for seed := range uint64(3) {
				if seed > 0 && s.once {
					break
				}
				run(t, s, seed)
			}
		})
	}
}

func run(t *testing.T, s scenario, seed uint64) {
	ctx := t.Context()
	r := testkit.Rand(seed)
	base := make([]byte, s.size*3/4)
	testkit.Fill(r, base)
	baseFile := filepath.Join(t.TempDir(), "base")
	if err := os.WriteFile(baseFile, base, 0o644); err != nil {
		t.Fatal(err)
	}
	memory := mem.New()
	dev := &recorded{}
	reg := block.NewRegistry(raw.New(), qcow2.New(), memory, dev)
	o := s.options.Clone()
	if err := block.Create(ctx, reg, block.CreateRequest{Filename: "mem:img", Format: "qcow2", Size: s.size, Options: o, Gate: driver.AllowAll, Objects: keys}); err != nil {
		t.Fatal(err)
	}
	dev.disk = memory.(*mem.Driver).Disk("img")
	initial := dev.disk.Clone()
	source := block.Source{Filename: "recorded:x", Format: "qcow2"}
	baseDisk := mem.NewDisk(int64(len(base)))
	memory.(*mem.Driver).Add("base", baseDisk)
	if _, err := baseDisk.WriteAt(ctx, base, 0); err != nil {
		t.Fatal(err)
	}
	if s.backing {
		source.Options = opts.Dict{"backing.driver": "raw", "backing.file.driver": "mem", "backing.file.filename": "base"}
	}
	if s.key {
		if source.Options == nil {
			source.Options = opts.Dict{}
		}
		source.Options["encrypt.key-secret"] = "s"
	}
	img, err := block.Open(ctx, reg, source, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true, Gate: driver.AllowAll, Objects: keys})
	if err != nil {
		t.Fatal(err)
	}
	rec := dev.rec
	h := history{start: make([]byte, s.size)}
	if s.backing {
		copy(h.start, base)
	}
	operate(t, r, s, img, rec, &h)
	live := make([]byte, img.Size())
	if _, err := img.ReadAt(ctx, live, 0); err != nil {
		t.Fatal(err)
	}
	state := bytes.Clone(h.start)
	for _, c := range h.changes {
		state = c.apply(state)
	}
	if !bytes.Equal(live, state) {
		t.Fatalf("seed %d: the running image differs from the model", seed)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
	h.flushes = append(h.flushes, flush{rec.Len(), len(h.changes)})
	events := rec.Events()
	for i := range 60 {
		n := r.IntN(len(events) + 1)
		if i == 0 {
			n = len(events)
		}
		left := initial.Clone()
		if err := testkit.Replay(ctx, left, testkit.Crash(r, events, n)); err != nil {
			t.Fatal(err)
		}
		if err := judge(ctx, t, reg, memory.(*mem.Driver), source, left, &h, n); err != nil {
			dump := filepath.Join(os.TempDir(), fmt.Sprintf("cowl-crash-%d.qcow2", seed))
			save(t, left, dump)
			t.Fatalf("seed %d, crash after event %d of %d: %v (image in %s)", seed, n, len(events), err, dump)
		}
		if i < 3 && !s.backing {
			checkWithOriginal(t, left, s.key)
		}
	}
}

// operate changes the image at random and writes down what it did.
func operate(t *testing.T, r *rand.Rand, s scenario, img *block.Image, rec *testkit.Recorder, h *history) {
	ctx := t.Context()
	for range 150 {
		size := img.Size()
		off := r.Int64N(size/sector) * sector
		n := (1 + r.Int64N(min(size-off, cmp.Or(s.sectors, 40)*sector)/sector)) * sector
		c := change{event: rec.Len(), off: off, data: make([]byte, n)}
		var err error
		switch k := r.IntN(20); {
		case k < 9:
			testkit.Fill(r, c.data)
			_, err = img.WriteAt(ctx, c.data, off)
		case k < 12:
			err = img.WriteZeroes(ctx, off, n, driver.ZeroFlags(r.IntN(2))*driver.ZeroMayUnmap)
		case k < 15:
			// A discard leaves what it likes: written over at once.
			if err = img.Discard(ctx, off, n); err == nil {
				var got = make([]byte, n)
				if _, err = img.ReadAt(ctx, got, off); err == nil {
					c.data = got
				}
			}
		case k < 17:
			if err = img.Flush(ctx); err == nil {
				h.flushes = append(h.flushes, flush{rec.Len(), len(h.changes)})
			}
			if err != nil {
				t.Fatal(err)
			}
			continue
		case k == 17 && (s.resize || s.grow):
			if s.grow {
				size += (1 + r.Int64N(4096)) * sector
			} else {
				size = s.size/2 + r.Int64N(s.size/sector)*sector
			}
			c = change{event: c.event, size: size}
			opt := driver.ResizeOptions{}
			if s.format == "" && size > img.Size() && !s.backing && r.IntN(2) == 0 {
				opt.Prealloc = driver.PreallocMetadata
			}
			err = img.Resize(ctx, size, opt)
		case k == 18 && s.compress:
			c, err = compressed(ctx, r, img, rec)
			if c.data == nil && err == nil {
				continue
			}
		default:
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		h.changes = append(h.changes, c)
	}
}

// compressed writes one compressed cluster somewhere that is not allocated.
func compressed(ctx context.Context, r *rand.Rand, img *block.Image, rec *testkit.Recorder) (change, error) {
	cluster := img.Limits().ClusterSize
	for range 20 {
		off := r.Int64N(img.Size()/cluster) * cluster
		st, err := img.StatusLayer(ctx, off, cluster)
		if err != nil {
			return change{}, err
		}
		if st.Allocated || st.Length < cluster {
			continue
		}
		data := bytes.Repeat([]byte{byte(r.IntN(255) + 1)}, int(cluster))
		enc, ok, err := img.Encode(nil, data)
		if err != nil || !ok {
			return change{}, fmt.Errorf("encode: %v, %v", ok, err)
		}
		c := change{event: rec.Len(), off: off, data: data}
		return c, img.WriteEncoded(ctx, off, enc)
	}
	return change{}, nil
}

// judge opens what a crash left and checks it.
func judge(ctx context.Context, t *testing.T, reg *block.Registry, memory *mem.Driver, source block.Source, left *mem.Disk, h *history, n int) error {
	t.Helper()
	reg2 := block.NewRegistry(raw.New(), qcow2.New(), memory, &recorded{disk: left})
	img, err := block.Open(ctx, reg2, source, block.OpenOptions{Write: true, Unmap: true, Gate: driver.AllowAll, Objects: keys})
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
	return h.allows(got, n)
}

// allows says whether the history explains the content after n events: each
// sector is as the last flush left it, or as a later change would.
func (h *history) allows(got []byte, n int) error {
	durable := 0
	for _, f := range h.flushes {
		if f.event <= n {
			durable = f.changes
		}
	}
	state := bytes.Clone(h.start)
	for _, c := range h.changes[:durable] {
		state = c.apply(state)
	}
	var later []change
	sizes := map[int]bool{len(state): true}
	for _, c := range h.changes[durable:] {
		if c.event >= n {
			break
		}
		later = append(later, c)
		if c.size > 0 {
			sizes[int(c.size)] = true
		}
	}
	if !sizes[len(got)] {
		return fmt.Errorf("the disk has %d bytes, which it never had", len(got))
	}
	zeroes := make([]byte, sector)
	for off := 0; off < len(got); off += sector {
		s := got[off : off+sector]
		ok := off < len(state) && bytes.Equal(s, state[off:off+sector])
		for _, c := range later {
			switch {
			case ok:
			case c.size > 0:
				// Cut off and grown again it is zeroes. While it is being cut off,
				// the backing file may show.
				ok = bytes.Equal(s, zeroes) || int64(off) >= c.size && off < len(h.start) && bytes.Equal(s, h.start[off:off+sector])
			case int64(off) >= c.off && int64(off) < c.off+int64(len(c.data)):
				ok = bytes.Equal(s, c.data[int64(off)-c.off:][:sector])
			}
		}
		if !ok && off >= len(state) {
			ok = bytes.Equal(s, zeroes)
		}
		if !ok {
			return fmt.Errorf("sector at %d holds what was never written there", off)
		}
	}
	return nil
}

func (c change) apply(state []byte) []byte {
	if c.size == 0 {
		copy(state[c.off:], c.data)
		return state
	}
	if int(c.size) <= len(state) {
		return state[:c.size:c.size]
	}
	return append(state, make([]byte, int(c.size)-len(state))...)
}

func save(t *testing.T, d *mem.Disk, name string) {
	t.Helper()
	p := make([]byte, d.Size())
	if _, err := d.ReadAt(context.Background(), p, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkWithOriginal lets QEMU check an image too: it may find leaks, no more.
func checkWithOriginal(t *testing.T, d *mem.Disk, key bool) {
	t.Helper()
	img := testkit.Tool(t, "qemu-img")
	name := filepath.Join(t.TempDir(), "left.qcow2")
	save(t, d, name)
	args := []string{"check", "-f", "qcow2", name}
	if key {
		args = []string{"check", "--object", "secret,id=s,data=" + keys["s"], "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=" + name}
	}
	_, stderr, code := testkit.Try(t, img, args...)
	// A dirty image (lazy refcounts) is repaired when it is opened for writing.
	_, infoErr, infoCode := testkit.Try(t, img, "info", "-f", "qcow2", name)
	if infoCode != 0 {
		t.Fatalf("QEMU does not open it: %s", infoErr)
	}
	if code != 0 && code != 3 && !isDirty(t, img, name) {
		t.Fatalf("QEMU's check exits with %d: %s", code, stderr)
	}
}

func isDirty(t *testing.T, img, name string) bool {
	t.Helper()
	out, _, _ := testkit.Try(t, img, "info", "-f", "qcow2", "--output=json", name)
	return strings.Contains(out, `"dirty-flag": true`)
}
