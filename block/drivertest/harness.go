package drivertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// Harness tells the suite about a driver.
type Harness struct {
	Driver driver.Driver
	// Options are given to Create.
	Options opts.Dict
	// Size of the disks, 0 for a few MiB that end in the middle of a cluster.
	// Drivers may round it up.
	Size int64
	// NewName returns the name of an object that does not exist, for protocols.
	// Formats live in memory.
	NewName func(t testing.TB) string
	// Make makes an object of zeroes and returns its name, for protocols that cannot
	// create one (a device, an export). Its size may be larger than asked for.
	Make func(t testing.TB, size int64) string
	// Original is the name of the format in qemu-img. If it is set, and qemu-img
	// is installed, that has to find images without fault and read the same.
	Original string
	// Open are options for opening, and Objects what they and Options refer to.
	Open    opts.Dict
	Objects driver.Objects
	// BackingFormat is the format of backing files, that of the driver itself for those
	// that take no other; "" is raw.
	BackingFormat string
	// Garbage: what was never written, in new images and behind the old end of those
	// that grew, reads as anything (as encrypted zeroes, say). The suite writes zeroes
	// there before it looks.
	Garbage bool
	// InUse: an image that was not closed in order counts as corrupt until it is opened for
	// writing, although nothing but the check says so.
	InUse bool
	// Light does less of what takes long: for further variants of a format.
	Light bool
	// Skip gives reasons not to run a subtest, by its name.
	Skip map[string]string
}

// subtests are run in this order. Each says itself whether it applies.
var subtests = []struct {
	name string
	run  func(*testing.T, *suite)
}{
	{"Empty", testEmpty},
	{"Probe", testProbe},
	{"Measure", testMeasure},
	{"RoundTrip", testRoundTrip},
	{"Bounds", testBounds},
	{"ReadOnly", testReadOnly},
	{"Cancel", testCancel},
	{"Random", testRandom},
	{"Strict", testStrict},
	{"Concurrent", testConcurrent},
	{"Backing", testBacking},
	{"ChangeBacking", testChangeBacking},
	{"StaleMemory", testStaleMemory},
	{"Stream", testStream},
	{"FailOnce", testFailOnce},
	{"FailForGood", testFailForGood},
	{"CancelDuring", testCancelDuring},
	{"Damaged", testDamaged},
}

// gcPercent is the GC target while the suite runs. Whole disks are read into buffers of some
// MiB: with the default each would begin a collection.
const gcPercent = 400

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	defer debug.SetGCPercent(debug.SetGCPercent(gcPercent))
	if _, ok := h.Driver.(driver.Creator); !ok && h.Make == nil {
		t.Fatalf("%s cannot create images: the suite does not apply", h.Driver.Desc().Name)
	}
	for _, s := range subtests {
		t.Run(s.name, func(t *testing.T) {
			if why := h.Skip[s.name]; why != "" {
				t.Skip(why)
			}
			s.run(t, newSuite(h))
		})
	}
}

// suite is the surroundings of one subtest: its own drivers and disks.
type suite struct {
	Harness
	mem   *mem.Driver
	reg   *block.Registry
	size  int64
	names atomic.Int64
	// buf is what compare reads into: disks of some MiB are read many times.
	buf []byte
}

func newSuite(h Harness) *suite {
	s := &suite{Harness: h, mem: mem.New().(*mem.Driver), size: h.Size}
	if s.size == 0 {
		s.size = 4<<20 + 3*512
	}
	s.reg = block.NewRegistry(h.Driver, s.mem, raw.New())
	return s
}

// light tells whether to do less.
func (s *suite) light() bool { return s.Light || testing.Short() || testkit.Race }

func (s *suite) desc() *driver.Desc { return s.Driver.Desc() }

func (s *suite) isFormat() bool { return s.desc().Kind != driver.KindProtocol }

// newName returns the name of an image to create.
func (s *suite) newName(t testing.TB) string {
	if !s.isFormat() {
		if s.NewName == nil {
			t.Fatal("the harness of a protocol needs NewName")
		}
		return s.NewName(t)
	}
	return fmt.Sprintf("mem:disk%d", s.names.Add(1))
}

// disk returns the disk in memory that a format's image lies on.
func (s *suite) disk(name string) *mem.Disk { return s.mem.Disk(name[len("mem:"):]) }

// create makes an image and returns its name.
func (s *suite) create(t testing.TB, more opts.Dict) string {
	t.Helper()
	if s.Make != nil {
		return s.Make(t, s.size)
	}
	name := s.newName(t)
	o := s.Options.Clone()
	if o == nil {
		o = opts.Dict{}
	}
	for k, v := range more {
		o[k] = v
	}
	err := block.Create(context.Background(), s.reg, block.CreateRequest{Filename: name, Format: s.desc().Name,
		Size: s.size, Options: o, Gate: driver.AllowAll, Objects: s.Objects})
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	if s.Garbage {
		img := s.open(t, name, true)
		if err := img.WriteZeroes(context.Background(), 0, img.Size(), 0); err != nil {
			t.Fatalf("write zeroes: %v", err)
		}
		closeImage(t, img)
	}
	return name
}

func (s *suite) tryOpen(ctx context.Context, name string, o block.OpenOptions) (*block.Image, error) {
	o.Gate, o.Objects = driver.AllowAll, s.Objects
	return block.Open(ctx, s.reg, s.source(name), o)
}

func (s *suite) source(name string) block.Source {
	if s.Open == nil {
		return block.Source{Filename: name, Format: s.desc().Name}
	}
	o := opts.Dict{"driver": s.desc().Name, "file.driver": "mem", "file.filename": strings.TrimPrefix(name, "mem:")}
	for k, v := range s.Open {
		o[k] = v
	}
	return block.Source{Options: o}
}

// open opens an image; who calls it closes it.
func (s *suite) open(t testing.TB, name string, write bool) *block.Image {
	t.Helper()
	img, err := s.tryOpen(context.Background(), name, block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true})
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	return img
}

func closeImage(t testing.TB, img *block.Image) {
	t.Helper()
	if err := img.Close(context.Background()); err != nil {
		t.Fatalf("close: %v", err)
	}
}

// check opens an image for checking and wants it to be without fault; leaks may
// be allowed.
func (s *suite) check(t testing.TB, name string, leaks bool) {
	t.Helper()
	ctx := context.Background()
	img, err := s.tryOpen(ctx, name, block.OpenOptions{Use: block.Use{Check: true}})
	if err != nil {
		t.Fatalf("open for check: %v", err)
	}
	defer closeImage(t, img)
	c, ok := img.Tree().Node().(driver.Checker)
	if !ok {
		return
	}
	var lines []string
	res, err := c.Check(ctx, driver.CheckFix{}, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		t.Fatalf("check: %v", err)
	}
	if res.Corruptions != 0 || res.CheckErrors != 0 || res.Leaks != 0 && !leaks {
		t.Fatalf("check found %d corruptions, %d leaks, %d errors: %q", res.Corruptions, res.Leaks, res.CheckErrors, lines[:min(len(lines), 10)])
	}
}

// verify compares a whole image, newly opened, with a model, checks it, and lets
// QEMU do both.
func (s *suite) verify(t testing.TB, name string, m *testkit.Model) {
	t.Helper()
	img := s.open(t, name, false)
	s.compare(t, img, m)
	closeImage(t, img)
	s.check(t, name, false)
	s.verifyWithOriginal(t, name, m)
}

// compare compares what an image reads, and says of itself, with a model.
func (s *suite) compare(t testing.TB, img *block.Image, m *testkit.Model) {
	t.Helper()
	ctx := context.Background()
	if img.Size() != m.Size() {
		t.Fatalf("size %d, want %d", img.Size(), m.Size())
	}
	if int64(cap(s.buf)) < m.Size() {
		s.buf = make([]byte, m.Size())
	}
	p := s.buf[:m.Size()]
	repeat(p, []byte{0xa5}) // what a driver leaves out is seen
	if _, err := img.ReadAt(ctx, p, 0); err != nil && err != io.EOF {
		t.Fatalf("read: %v", err)
	}
	if d := m.Diff(p, 0); d != "" {
		t.Fatal(d)
	}
	for off := int64(0); off < m.Size(); {
		st, err := img.Status(ctx, off, m.Size()-off, nil)
		if err != nil || st.Length <= 0 || st.Length > m.Size()-off {
			t.Fatalf("status at %d: %+v, %v", off, st, err)
		}
		if st.Zero || !st.Data && !st.Compressed && !st.Allocated {
			if d := m.DiffZero(off, st.Length); d != "" {
				t.Fatalf("status calls %d+%d zero: %s", off, st.Length, d)
			}
		}
		off += st.Length
	}
}

func (s *suite) verifyWithOriginal(t testing.TB, name string, m *testkit.Model) {
	t.Helper()
	if s.Original == "" || !s.isFormat() || !testkit.Installed("qemu-img") {
		return
	}
	path := filepath.Join(t.TempDir(), "image")
	s.dump(t, name, path)
	defer os.Remove(path)
	const notSupported = 63
	image := s.forOriginal(t, path)
	if out, errOut, code := testkit.Try(t, "qemu-img", append([]string{"check"}, image...)...); code != 0 && code != notSupported {
		t.Fatalf("qemu-img check: exit code %d\n%s%s", code, out, errOut)
	}
	plain := path + ".raw"
	defer os.Remove(plain)
	testkit.Run(t, "qemu-img", append(append([]string{"convert", "-O", "raw"}, image...), plain)...)
	b, err := os.ReadFile(plain)
	if err != nil {
		t.Fatal(err)
	}
	if int64(len(b)) != m.Size() {
		t.Fatalf("QEMU reads %d bytes, want %d", len(b), m.Size())
	}
	if d := m.Diff(b, 0); d != "" {
		t.Fatalf("read by QEMU: %s", d)
	}
}

// forOriginal names an image file to QEMU: options, then the operand.
func (s *suite) forOriginal(t testing.TB, path string) []string {
	if s.Open == nil {
		return []string{"-f", s.Original, path}
	}
	var args []string
	image := "driver=" + s.Original + ",file.filename=" + opts.EscapeComma(path)
	for name, v := range s.Open {
		image += "," + name + "=" + opts.EscapeComma(opts.Text(v))
		if !strings.HasSuffix(name, "key-secret") {
			continue
		}
		secret, err := driver.FindObject[driver.Secret](s.Objects, opts.Text(v))
		if err != nil {
			t.Fatal(err)
		}
		args = append(args, "--object", "secret,id="+opts.Text(v)+",data="+string(secret))
	}
	return append(args, "--image-opts", image)
}

// dump writes the image of a format to a file.
func (s *suite) dump(t testing.TB, name, path string) {
	t.Helper()
	d := s.disk(name)
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(context.Background(), b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// unsupported tells whether an operation was refused as not supported.
func unsupported(err error) bool { return errors.Is(err, driver.ErrUnsupported) }
