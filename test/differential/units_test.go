package differential

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// unitFormat is a format whose disk is a table of units, for random tests beside the
// original.
type unitFormat struct {
	name    string
	options func(r *rand.Rand) []string
	backing bool
	noCheck bool // QEMU cannot check images
	// neverCheck: nor can we, nor resize them.
	neverCheck bool
	// statistics: our check counts clusters, that of QEMU does not.
	statistics bool
	// leaky: QEMU leaves room at the end of the file where it discarded.
	leaky bool
	noMap bool // QEMU does not tell where data is
}

// values returns options each of which has one of its values, or its default where it is left out.
func values(options ...[]string) func(r *rand.Rand) []string {
	return func(r *rand.Rand) (out []string) {
		for _, o := range options {
			if i := r.IntN(len(o)); i > 0 {
				out = append(out, o[0]+"="+o[i])
			}
		}
		return out
	}
}

var unitFormats = []unitFormat{
	{name: "vdi", options: values([]string{"static", "off", "on"}), statistics: true},
	{name: "qed", options: values([]string{"cluster_size", "4k", "32k", "1M"}, []string{"table_size", "2", "8", "16"}), backing: true},
	{name: "vpc", options: values([]string{"subformat", "dynamic", "fixed", "fixed"}, []string{"force_size", "on", "on", "off"}), noCheck: true},
	{name: "vhdx", options: values([]string{"subformat", "dynamic", "fixed"}, []string{"block_size", "1M", "2M", "4M", "0"}, []string{"log_size", "1M", "2M", "3M"},
		[]string{"block_state_zero", "on", "off"}), noMap: true},
	{name: "qcow", options: values(), backing: true, noCheck: true, neverCheck: true},
	{name: "parallels", options: values([]string{"cluster_size", "512", "4k", "64k", "256k"}), leaky: true},
}

func eachUnitImage(t *testing.T, first uint64, run func(t *testing.T, r *rand.Rand, f unitFormat, dir string)) {
	testkit.Tool(t, "qemu-img")
	testkit.Tool(t, "qemu-io")
	images := testkit.Count(10)
	if testing.Short() || testkit.Race {
		images = 2
	}
	for _, f := range unitFormats {
		for seed := range images {
			t.Run(fmt.Sprint(f.name, seed), func(t *testing.T) {
				t.Parallel()
				run(t, testkit.Rand(first+uint64(seed)), f, t.TempDir())
			})
		}
	}
}

// unitBase makes a backing file now and then, and returns the options that name it and
// what it holds.
func unitBase(t *testing.T, r *rand.Rand, f unitFormat, dir string, size int64) (args []string, content []byte) {
	t.Helper()
	if !f.backing || r.IntN(2) == 0 {
		return nil, nil
	}
	content = make([]byte, (size*3/4+r.Int64N(size/2))&^511)
	testkit.FillDisk(r, content)
	writeFile(t, filepath.Join(dir, "base"), content)
	return []string{"backing_file=base", "backing_fmt=raw"}, content
}

func unitModel(size int64, below []byte) *testkit.Model {
	m := testkit.NewModel(size)
	m.Write(below[:min(int64(len(below)), size)], 0)
	return m
}

func openUnits(t *testing.T, f unitFormat, path string, write bool) *block.Image {
	t.Helper()
	img, err := block.Open(context.Background(), block.NewRegistry(drivers.All()...), block.Source{Filename: path, Format: f.name},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestUnitsOurs writes images with our library. QEMU reads the same, finds
// nothing to complain about, and says the same of them as we do.
func TestUnitsOurs(t *testing.T) {
	eachUnitImage(t, 0, func(t *testing.T, r *rand.Rand, f unitFormat, dir string) {
		path := filepath.Join(dir, "image")
		size := (1 + r.Int64N(6<<20)) &^ 511
		o := opts.Dict{}
		args, below := unitBase(t, r, f, dir, size)
		for _, s := range append(args, f.options(r)...) {
			k, v, _ := strings.Cut(s, "=")
			o[k] = v
		}
		err := block.Create(t.Context(), block.NewRegistry(drivers.All()...), block.CreateRequest{Filename: path, Format: f.name, Size: size, Options: o, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		img := openUnits(t, f, path, false)
		m := unitModel(img.Size(), below)
		closeLibrary(t, img)
		unitsSame(t, f, path)
		for range 2 {
			changeUnits(t, r, f, path, m)
			unitsSame(t, f, path)
			if d := m.Diff(readUnits(t, f, path), 0); d != "" {
				t.Fatal("QEMU reads: ", d)
			}
		}
	})
}

// TestUnitsTheirs lets QEMU make and change images. We read and describe them
// as it does, and go on writing them.
func TestUnitsTheirs(t *testing.T) {
	eachUnitImage(t, 1000, func(t *testing.T, r *rand.Rand, f unitFormat, dir string) {
		path := filepath.Join(dir, "image")
		size := (1 + r.Int64N(6<<20)) &^ 511
		args, below := unitBase(t, r, f, dir, size)
		create := []string{"create", "-q", "-f", f.name}
		for _, o := range append(args, f.options(r)...) {
			create = append(create, "-o", o)
		}
		testkit.Run(t, "qemu-img", append(create, path, fmt.Sprint(size))...)
		_ = below
		for range 2 {
			unitsByQEMU(t, r, f, path)
			unitsSame(t, f, path)
			content := readUnits(t, f, path)
			m := testkit.NewModel(int64(len(content)))
			m.Write(content, 0)
			img := openUnits(t, f, path, false)
			if d := m.Diff(readLibrary(t, img), 0); d != "" {
				t.Fatal("we read: ", d)
			}
			closeLibrary(t, img)
			changeUnits(t, r, f, path, m)
			unitsSame(t, f, path)
			if d := m.Diff(readUnits(t, f, path), 0); d != "" {
				t.Fatal("QEMU reads: ", d)
			}
		}
	})
}

// changeUnits changes an image and the model of it at random.
func changeUnits(t *testing.T, r *rand.Rand, f unitFormat, path string, m *testkit.Model) {
	t.Helper()
	img := openUnits(t, f, path, true)
	ctx := t.Context()
	var log []string
	defer func() {
		if t.Failed() {
			t.Logf("done: %s", strings.Join(log, "\n"))
		}
	}()
	for range 30 {
		size, cs := img.Size(), max(img.Limits().ClusterSize, 512)
		off := r.Int64N(size)
		n := min(1+r.Int64N(pick(r, 512, cs, 3*cs, 64<<10, 1<<20)), size-off)
		if r.IntN(3) > 0 {
			off &^= 511
			n = min((n+511)&^511, size-off)
		}
		var err error
		what := ""
		switch k := r.IntN(12); {
		case k < 6:
			what = "write"
			p := make([]byte, n)
			testkit.FillDisk(r, p)
			_, err = img.WriteAt(ctx, p, off)
			m.Write(p, off)
		case k < 8:
			flags := driver.ZeroFlags(r.IntN(2)) * driver.ZeroMayUnmap
			what = fmt.Sprint("zeroes ", flags)
			err = img.WriteZeroes(ctx, off, n, flags)
			m.Zero(off, n)
		case k < 10:
			what = "discard"
			if err = img.Discard(ctx, off, n); err == nil {
				p := make([]byte, n)
				_, err = img.ReadAt(ctx, p, off)
				for i, old := range m.Read(off, n) {
					if p[i] != 0 && p[i] != old {
						t.Fatalf("byte %d is %#x after a discard, and was %#x", off+int64(i), p[i], old)
					}
				}
				m.Write(p, off)
			}
		case k < 11:
			what = "flush"
			err = img.Flush(ctx)
		case f.neverCheck:
		default:
			to := min((size/2+r.Int64N(size)+511)&^511, 12<<20)
			if f.name == "qed" {
				to = max(to, size)
			}
			what = fmt.Sprint("resize to ", to)
			if err = img.Resize(ctx, to, driver.ResizeOptions{}); err == nil {
				m.Resize(img.Size())
			}
		}
		log = append(log, fmt.Sprintf("%s %d+%d of %d", what, off, n, size))
		if err != nil {
			t.Fatal(err)
		}
	}
	if d := m.Diff(readLibrary(t, img), 0); d != "" {
		t.Fatal("we read: ", d)
	}
	closeLibrary(t, img)
}

// unitsByQEMU runs random commands of qemu-io.
func unitsByQEMU(t *testing.T, r *rand.Rand, f unitFormat, path string) {
	t.Helper()
	img := openUnits(t, f, path, false)
	size := img.Size()
	closeLibrary(t, img)
	args := []string{"-f", f.name, "-d", "unmap"}
	for range 15 {
		off := r.Int64N(size) &^ 511
		n := min((1+r.Int64N(pick[int64](r, 512, 64<<10, 2<<20))+511)&^511, size-off)
		cmd := pick(r, "write -P 7", "write -P 9", "write -P 200", "write -z", "write -zu", "discard")
		args = append(args, "-c", fmt.Sprintf("%s %d %d", cmd, off, n))
	}
	if out, stderr, _ := testkit.Try(t, "qemu-io", append(args, path)...); !strings.Contains(out, "wrote") {
		t.Fatalf("qemu-io wrote nothing: %s%s", out, stderr)
	}
}

// unitsSame compares everything that the programs say about an image that is without
// fault.
func unitsSame(t *testing.T, f unitFormat, path string) {
	t.Helper()
	unitsLines(t, f, path, "--output=json")
	unitsLines(t, f, path)
	if got := sameCommand(t, "measure", "-O", "raw", "--output=json", "-f", f.name, path); got.code != 0 {
		t.Fatalf("measure: exit code %d: %s", got.code, got.stderr)
	}
	if (f.noCheck || f.statistics) && !f.neverCheck {
		unitsChecked(t, f, path)
	}
}

// unitsLines compares what the programs say about an image that is without fault, in the
// given form, or in words.
func unitsLines(t *testing.T, f unitFormat, path string, form ...string) {
	t.Helper()
	commands := []string{"info"}
	if !f.noMap {
		commands = append(commands, "map")
	}
	if !f.noCheck && !f.statistics {
		commands = append(commands, "check")
	}
	for _, command := range commands {
		args := append([]string{command}, form...)
		if got := sameCommand(t, append(args, "-f", f.name, path)...); got.code != 0 {
			if got.code == 3 && f.leaky {
				continue
			}
			t.Fatalf("%v: exit code %d: %s", args, got.code, got.stderr)
		}
	}
}

// unitsChecked compares checks where ours says more.
func unitsChecked(t *testing.T, f unitFormat, path string) {
	t.Helper()
	got := ourProgram(t, "check", "-f", f.name, "--output=json", path)
	if got.code != 0 || got.stderr != "" {
		t.Fatalf("check: exit code %d\n%s%s", got.code, got.stdout, got.stderr)
	}
	if f.noCheck {
		return
	}
	stdout, stderr, code := testkit.Try(t, "qemu-img", "check", "-f", f.name, "--output=json", path)
	var a, b map[string]any
	if code != 0 || json.Unmarshal([]byte(stdout), &a) != nil || json.Unmarshal([]byte(got.stdout), &b) != nil {
		t.Fatalf("check: exit code %d\n%s%s", code, stdout, stderr)
	}
	for _, k := range []string{"total-clusters", "allocated-clusters", "fragmented-clusters"} {
		delete(b, k)
	}
	if !reflect.DeepEqual(a, b) {
		t.Fatalf("check: %s\nwant %s", got.stdout, stdout)
	}
}

// readUnits returns the whole disk as QEMU reads it.
func readUnits(t *testing.T, f unitFormat, path string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "original.raw")
	testkit.Run(t, "qemu-img", "convert", "-f", f.name, "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
