package luks_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/luks"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const headerSize = 2068480 // of the default cipher, as QEMU has it

type world struct {
	t   *testing.T
	mem *mem.Driver
	reg *block.Registry
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, mem: mem.New().(*mem.Driver)}
	w.reg = block.NewRegistry(luks.New(), w.mem)
	return w
}

func (w *world) create(name string, size int64, o opts.Dict) error {
	d := opts.Dict{"key-secret": "s", "iter-time": "0"}
	for k, v := range o {
		if d[k] = v; v == nil {
			delete(d, k)
		}
	}
	return block.Create(w.t.Context(), w.reg, block.CreateRequest{Filename: "mem:" + name, Format: "luks", Size: size,
		Options: d, Gate: driver.DenyAll, Objects: known})
}

func (w *world) open(name string, o opts.Dict, oo block.OpenOptions) (*block.Image, error) {
	d := opts.Dict{"driver": "luks", "file.driver": "mem", "file.filename": name}
	for k, v := range o {
		d[k] = v
	}
	oo.Gate, oo.Objects = driver.DenyAll, known
	return block.Open(w.t.Context(), w.reg, block.Source{Options: d}, oo)
}

func (w *world) mustOpen(name string, o opts.Dict) *block.Image {
	w.t.Helper()
	img, err := w.open(name, o, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}})
	if err != nil {
		w.t.Fatal(err)
	}
	return img
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return words.Text(err)
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		o    opts.Dict
		want string
	}{
		{opts.Dict{"key-secret": nil}, "Parameter 'key-secret' is required for cipher"},
		{opts.Dict{"key-secret": "nope"}, "No secret with id 'nope'"},
		{opts.Dict{"key-secret": "binary"}, "Data from secret binary is not valid UTF-8"},
		{opts.Dict{"key-secret": "nul"}, "Data from secret nul is not valid UTF-8"},
		{opts.Dict{"key-secret": nil, "cipher-alg": "foo"}, "Parameter 'cipher-alg' does not accept value 'foo'"},
		{opts.Dict{"cipher-alg": "3des"}, "Algorithm '3des' not supported"},
		{opts.Dict{"preallocation": "some"}, "invalid parameter value: some"},
	} {
		if err := w.create("x", 1<<20, c.o); message(err) != c.want {
			t.Errorf("%v: %v, want %s", c.o, err, c.want)
		}
		if w.mem.Disk("x") != nil {
			t.Errorf("%v: leaves a file behind", c.o)
		}
	}
	if err := w.create("x", 1<<63-1, nil); message(err) != "The requested file size is too large" {
		t.Error(err)
	}
}

func TestOpenNeedsTheKey(t *testing.T) {
	w := newWorld(t)
	if err := w.create("x", 1000, nil); err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]string{"": "Parameter 'key-secret' is required for cipher", "t": "Invalid password, cannot unlock any keyslot",
		"nope": "No secret with id 'nope'", "binary": "Data from secret binary is not valid UTF-8", "s": ""} {
		o := opts.Dict{"key-secret": secret}
		if secret == "" {
			o = nil
		}
		img, err := w.open("x", o, block.OpenOptions{})
		if message(err) != want && !strings.HasSuffix(message(err), want) || (err == nil) != (want == "") {
			t.Errorf("secret %q: %v, want %s", secret, err, want)
		}
		if err == nil {
			if img.Size() != 1024 {
				t.Errorf("size %d", img.Size())
			}
			_ = img.Close(t.Context())
		}
		// Metadata can be had without.
		img, err = w.open("x", o, block.OpenOptions{Use: block.Use{NoIO: true}})
		if err != nil {
			t.Errorf("metadata with secret %q: %v", secret, err)
			continue
		}
		if _, err := img.ReadAt(t.Context(), make([]byte, 512), 0); err == nil && secret != "s" {
			t.Errorf("data was read without the key")
		}
		_ = img.Close(t.Context())
	}
}

func TestMeasure(t *testing.T) {
	m := luks.New().(driver.Measurer)
	for _, c := range []struct {
		size int64
		o    opts.Dict
		want int64
	}{
		// As QEMU measures them.
		{1 << 30, nil, 1075810304},
		{1000, nil, 2069480},
		{0, nil, headerSize},
		{1000, opts.Dict{"cipher-alg": "aes-128"}, 1053672},
		{1 << 20, opts.Dict{"cipher-alg": "aes-128", "cipher-mode": "cbc"}, 528384 + 1<<20},
		{1 << 20, opts.Dict{"cipher-alg": "serpent-192"}, 1544192 + 1<<20},
		{1 << 20, opts.Dict{"cipher-mode": "ecb"}, 1052672 + 1<<20},
		{1000, opts.Dict{"preallocation": "full"}, 2069480},
		{1 << 30, opts.Dict{"detached-header": "on"}, headerSize},
	} {
		d := opts.Dict{"key-secret": "s"}
		for k, v := range c.o {
			d[k] = v
		}
		got, err := m.Measure(t.Context(), &driver.MeasureRequest{Size: c.size, Options: d, Objects: known})
		if err != nil || got.Required != c.want || got.FullyAllocated != c.want {
			t.Errorf("%d, %v: %+v, %v, want %d", c.size, c.o, got, err, c.want)
		}
	}
	if _, err := m.Measure(t.Context(), &driver.MeasureRequest{Size: 1 << 20}); message(err) != "Parameter 'key-secret' is required for cipher" {
		t.Error(err)
	}
	if _, err := m.Measure(t.Context(), &driver.MeasureRequest{Size: 1<<63 - 1, Options: opts.Dict{"key-secret": "s"}, Objects: known}); err == nil {
		t.Error("a size beyond all files was measured")
	}
}

func TestProbe(t *testing.T) {
	p := luks.New().(driver.Prober)
	for head, want := range map[string]int{"LUKS\xba\xbe\x00\x01": 100, "LUKS\xba\xbe\x00\x02": 100, "LUKS\xba\xbe\x00\x03": 0, "LUKS\xba\xbe\x00": 0, "": 0} {
		if got := p.Probe([]byte(head), -1, ""); got != want {
			t.Errorf("%q: %d", head, got)
		}
	}
}

// TestNothingIsPlain looks for what was written in the file.
func TestNothingIsPlain(t *testing.T) {
	w := newWorld(t)
	if err := w.create("x", 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	img := w.mustOpen("x", opts.Dict{"key-secret": "s"})
	text := []byte("this is secret! ")
	if _, err := img.WriteAt(t.Context(), bytes.Repeat(text, 4096), 3000); err != nil {
		t.Fatal(err)
	}
	if err := img.WriteZeroes(t.Context(), 500000, 100000, driver.ZeroMayUnmap); err != nil {
		t.Fatal(err)
	}
	st, err := img.Status(t.Context(), 500000, 1000, nil)
	if err != nil || st.Zero || !st.Data || st.HasOffset {
		t.Errorf("status of zeroes: %+v, %v", st, err)
	}
	if err := img.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	d := w.mem.Disk("x")
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, text) {
		t.Error("the file holds what was written as it is")
	}
	if bytes.Contains(b[headerSize+500000:headerSize+600000], make([]byte, 32)) {
		t.Error("the file holds zeroes as they are")
	}
}

func TestResize(t *testing.T) {
	w := newWorld(t)
	if err := w.create("x", 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	img := w.mustOpen("x", opts.Dict{"key-secret": "s"})
	if err := img.Resize(t.Context(), 1<<20+1, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := w.mem.Disk("x").Size(); got != headerSize+1<<20+1 || img.Size() != 1<<20+512 {
		t.Errorf("file of %d bytes, disk of %d", got, img.Size())
	}
	last := bytes.Repeat([]byte{7}, 512)
	if _, err := img.WriteAt(t.Context(), last, 1<<20); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 512)
	if _, err := img.ReadAt(t.Context(), got, 1<<20); err != nil || !bytes.Equal(got, last) {
		t.Errorf("the last sector: %v", err)
	}
	if err := img.Resize(t.Context(), 1<<63-1, driver.ResizeOptions{}); err == nil {
		t.Error("a size beyond all files")
	}
	_ = img.Close(t.Context())
}

func TestAmendWords(t *testing.T) {
	w := newWorld(t)
	if err := w.create("x", 4096, nil); err != nil {
		t.Fatal(err)
	}
	amend := func(secret string, force bool, o opts.Dict) error {
		img := w.mustOpen("x", opts.Dict{"key-secret": secret})
		defer img.Close(t.Context())
		return img.Tree().Node().(driver.Amender).Amend(t.Context(), &driver.AmendRequest{Options: o, Force: force})
	}
	for _, c := range []struct {
		secret string
		force  bool
		o      opts.Dict
		want   string
	}{
		{"s", false, opts.Dict{}, "Parameter 'state' is missing"},
		{"s", false, opts.Dict{"state": "lost"}, "Parameter 'state' does not accept value 'lost'"},
		{"s", false, opts.Dict{"state": "active"}, "'new-secret' is required to activate a keyslot"},
		{"s", false, opts.Dict{"state": "active", "new-secret": "t", "keyslot": "0"}, "Refusing to overwrite active keyslot 0 - please erase it first"},
		{"s", false, opts.Dict{"state": "active", "new-secret": "t", "keyslot": "8"}, "Invalid keyslot 8 specified, must be between 0 and 7"},
		{"s", false, opts.Dict{"state": "active", "new-secret": "t", "iter-time": "0"}, ""},
		{"t", true, opts.Dict{"state": "active", "new-secret": "u", "keyslot": "0", "iter-time": "0"}, ""},
		{"u", false, opts.Dict{"state": "inactive", "old-secret": "s"}, "No keyslots match given (old) password for erase operation"},
		{"u", false, opts.Dict{"state": "inactive", "old-secret": "t"}, ""},
		{"u", false, opts.Dict{"state": "inactive", "keyslot": "0"},
			"Attempt to erase the only active keyslot 0 which will erase all the data in the image irreversibly - refusing operation"},
		{"u", true, opts.Dict{"state": "inactive", "keyslot": "0"}, ""},
	} {
		if err := amend(c.secret, c.force, c.o); message(err) != c.want {
			t.Errorf("%v: %v, want %s", c.o, err, c.want)
		}
	}
	if _, err := w.open("x", opts.Dict{"key-secret": "u"}, block.OpenOptions{}); err == nil || !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a volume without keys: %v", err)
	}
}

// TestWholeSectors: a disk of large sectors has whole ones, and what it has more than was
// asked for reads as zeroes.
func TestWholeSectors(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct{ asked, size int64 }{{5120, 8192}, {8192, 8192}, {0, 0}} {
		if err := w.create("v2", c.asked, opts.Dict{"version": "2", "pbkdf": "pbkdf2", "sector-size": "4k"}); err != nil {
			t.Fatal(err)
		}
		img := w.mustOpen("v2", opts.Dict{"key-secret": "s"})
		if img.Size() != c.size {
			t.Errorf("%d bytes, want %d", img.Size(), c.size)
		}
		b := make([]byte, c.size-c.asked)
		if len(b) > 0 {
			if _, err := img.ReadAt(t.Context(), b, c.asked); err != nil || len(bytes.Trim(b, "\x00")) > 0 {
				t.Errorf("behind the end: %x, %v", b[:16], err)
			}
		}
		if err := img.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}
