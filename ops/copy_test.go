package ops_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
)

func allDrivers() *block.Registry { return block.NewRegistry(drivers.All()...) }

func openImage(t *testing.T, name, format string, o block.OpenOptions) *block.Image {
	t.Helper()
	o.Gate = driver.AllowAll
	img, err := block.Open(t.Context(), allDrivers(), block.Source{Filename: name, Format: format}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = img.Close(t.Context()) })
	return img
}

func writeFile(t *testing.T, name string, p []byte) {
	t.Helper()
	if err := os.WriteFile(name, p, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCopyTruncated copies sources of which a part is lost: the error says where, and
// the target is removed, unless it existed before.
func TestCopyTruncated(t *testing.T) {
	dir := t.TempDir()
	src, out := filepath.Join(dir, "src"), filepath.Join(dir, "out")
	content := bytes.Repeat([]byte{7}, 4<<20)
	writeFile(t, src, content)
	qcow2 := filepath.Join(dir, "src.qcow2")
	_, err := ops.Copy(t.Context(), ops.CopyJob{Registry: allDrivers(), Files: []block.Source{{Filename: src, Format: "raw"}},
		Open: block.OpenOptions{Gate: driver.DenyAll}, New: &ops.CreateJob{Registry: allDrivers(), Filename: qcow2, Format: "qcow2"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, format := range map[string]string{src: "raw", qcow2: "qcow2"} {
		img := openImage(t, name, format, block.OpenOptions{})
		if format == "qcow2" {
			// Cut short before it is opened: nothing but its tables tell what it had.
			_ = img.Close(t.Context())
		}
		if err := os.Truncate(name, 1<<20); err != nil {
			t.Fatal(err)
		}
		if format == "qcow2" {
			img = openImage(t, name, format, block.OpenOptions{})
		}
		for _, existed := range []bool{false, true} {
			if existed {
				writeFile(t, out, []byte("old"))
			}
			_, err := ops.Copy(t.Context(), ops.CopyJob{Sources: []*block.Image{img}, New: &ops.CreateJob{Registry: allDrivers(), Filename: out, Format: "raw"}})
			var fail *ops.CopyError
			if !errors.Is(err, driver.ErrTruncated) && !errors.Is(err, driver.ErrCorrupt) || !errors.As(err, &fail) || fail.Stage != ops.CopyData {
				t.Fatalf("%s: %v", format, err)
			}
			_, stat := os.Stat(out)
			if existed != (stat == nil) || existed != strings.Contains(fmt.Sprint(fail.Remains), "existed before") {
				t.Errorf("%s, existed %v: %v, remains %v", format, existed, stat, fail.Remains)
			}
		}
		if err := os.Remove(out); err != nil {
			t.Fatal(err)
		}
		at := map[string]int{"raw": 1 << 20, "qcow2": 1<<20 - 5*64<<10}[format] // qcow2: behind five clusters of tables
		var lost int64
		_, err := ops.Copy(t.Context(), ops.CopyJob{Sources: []*block.Image{img}, Salvage: true, Salvaged: func(int64, error) { lost += 512 }, Workers: 1,
			New: &ops.CreateJob{Registry: allDrivers(), Filename: out, Format: "raw"}})
		got, e := os.ReadFile(out)
		if err != nil || e != nil || lost == 0 || !bytes.Equal(got[at:], make([]byte, len(got)-at)) || !bytes.Equal(got[:at], content[:at]) {
			t.Errorf("%s: salvaged all but %d bytes: %v, %v", format, lost, err, e)
		}
		_ = os.Remove(out)
	}
}

// TestCopyNeverZero says of targets that they are zero which cannot be.
func TestCopyNeverZero(t *testing.T) {
	dir := t.TempDir()
	base, over, src := filepath.Join(dir, "base"), filepath.Join(dir, "over"), filepath.Join(dir, "src")
	writeFile(t, base, bytes.Repeat([]byte{7}, 1<<20))
	writeFile(t, src, make([]byte, 1<<20))
	name, format := base, "raw"
	err := ops.Create(t.Context(), ops.CreateJob{Registry: allDrivers(), Filename: over, Format: "qcow2", Backing: &name, BackingFormat: &format, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	target := openImage(t, over, "qcow2", block.OpenOptions{Write: true})
	if target.Size() != 1<<20 {
		t.Errorf("a job without a size made a disk of %d bytes", target.Size())
	}
	sources := []*block.Image{openImage(t, src, "raw", block.OpenOptions{})}
	if _, err := ops.Copy(t.Context(), ops.CopyJob{Sources: sources, Target: target, TargetIsZero: true}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("Copy: %v", err)
	}
	if _, err := ops.Convert(t.Context(), ops.ConvertJob{Sources: sources, Target: target, TargetZero: true}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("Convert: %v", err)
	}
	if _, err := ops.Copy(t.Context(), ops.CopyJob{Sources: sources, Target: target}); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1<<20)
	if _, err := target.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, make([]byte, 1<<20)) {
		t.Errorf("the copy differs: %v", err)
	}
}

// TestCopyOntoItself copies a file onto itself under another name, without locks.
func TestCopyOntoItself(t *testing.T) {
	dir := t.TempDir()
	name, other := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	content := bytes.Repeat([]byte{7}, 1<<20)
	writeFile(t, name, content)
	if err := os.Link(name, other); err != nil {
		t.Skip("no hard links here: ", err)
	}
	open := func(name string, write bool) *block.Image {
		img, err := block.Open(t.Context(), allDrivers(), block.Source{Options: opts.Dict{"driver": "raw", "file.filename": name, "file.driver": "file", "file.locking": "off"}},
			block.OpenOptions{Gate: driver.DenyAll, Write: write, Unmap: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = img.Close(t.Context()) })
		return img
	}
	_, err := ops.Copy(t.Context(), ops.CopyJob{Sources: []*block.Image{open(name, false)}, Target: open(other, true)})
	if !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("%v", err)
	}
	if got, err := os.ReadFile(name); err != nil || !bytes.Equal(got, content) {
		t.Errorf("the file is not what it was: %v", err)
	}
}

// TestCreateDataFile names a data file that holds something.
func TestCreateDataFile(t *testing.T) {
	dir := t.TempDir()
	data := filepath.Join(dir, "data")
	job := ops.CreateJob{Registry: allDrivers(), Filename: filepath.Join(dir, "x"), Format: "qcow2", Size: 1 << 20, Options: opts.Dict{"data_file": data}, Gate: driver.AllowAll}
	for _, c := range []struct {
		content string
		replace bool
		want    string
	}{{"kept", false, "kept"}, {"", false, ""}, {"gone", true, ""}} {
		writeFile(t, data, []byte(c.content))
		job.ReplaceDataFile = c.replace
		err := ops.Create(t.Context(), job)
		var refused *ops.DataFileError
		got, e := os.ReadFile(data)
		if errors.As(err, &refused) != (c.want != "") || e != nil || !strings.HasPrefix(string(got), c.want) {
			t.Errorf("%q, replace %v: %v, %v, it holds %d bytes", c.content, c.replace, err, e, len(got))
		}
	}
}

// TestKeepDataFile makes an image over a data file that exists: the disk has its contents, and
// a copy writes zeroes over them.
func TestKeepDataFile(t *testing.T) {
	const size = 1 << 20
	dir := t.TempDir()
	data, name := filepath.Join(dir, "data"), filepath.Join(dir, "x")
	create := func(d opts.Dict) error {
		d["data_file"], d["keep_data_file"] = data, "on"
		return ops.Create(t.Context(), ops.CreateJob{Registry: allDrivers(), Filename: name, Format: "qcow2", Size: size, Options: d, Gate: driver.AllowAll})
	}
	if err := create(opts.Dict{"data_file_raw": "on"}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without the file: %v", err)
	}
	content := []byte("kept")
	for _, d := range []opts.Dict{{}, {"preallocation": "falloc"}, {"preallocation": "full", "data_file_raw": "on"}} {
		writeFile(t, data, content)
		if err := create(d); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%v: %v", d, err)
		}
		if got, err := os.ReadFile(data); err != nil || !bytes.Equal(got, content) {
			t.Errorf("%v: the data file holds %q (%v)", d, got, err)
		}
	}
	for _, d := range []opts.Dict{{"preallocation": "metadata"}, {"data_file_raw": "on"}} {
		for _, length := range []int{len(content), 3 * size} {
			writeFile(t, data, append(bytes.Clone(content), make([]byte, length-len(content))...))
			if err := create(d); err != nil {
				t.Fatalf("%v: %v", d, err)
			}
			img, err := block.Open(t.Context(), allDrivers(), block.Source{Filename: name}, block.OpenOptions{Gate: driver.AllowAll})
			if err != nil {
				t.Fatal(err)
			}
			got := make([]byte, size)
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, append(bytes.Clone(content), make([]byte, size-len(content))...)) {
				t.Errorf("%v: the disk begins with %q (%v)", d, got[:8], err)
			}
			if err := img.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			if info, err := os.Stat(data); err != nil || info.Size() != int64(max(size, length)) {
				t.Errorf("%v: the data file of %d bytes has %d now (%v)", d, length, info.Size(), err)
			}
		}
	}

	empty := filepath.Join(dir, "empty")
	writeFile(t, empty, make([]byte, size))
	writeFile(t, data, content)
	src, err := block.Open(t.Context(), allDrivers(), block.Source{Filename: empty, Format: "raw"}, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close(t.Context())
	_, err = ops.Copy(t.Context(), ops.CopyJob{Sources: []*block.Image{src}, New: &ops.CreateJob{Registry: allDrivers(), Filename: name, Format: "qcow2",
		Options: opts.Dict{"data_file": data, "data_file_raw": "on", "keep_data_file": "on"}, Gate: driver.AllowAll}})
	if got, e := os.ReadFile(data); err != nil || e != nil || !bytes.Equal(got, make([]byte, size)) {
		t.Errorf("a copy of zeroes: %v, %v; it begins with %q", err, e, got[:8])
	}
}

// TestCompressDataFile: what cannot be done is refused before the target is touched.
func TestCompressDataFile(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "x")
	content := make([]byte, 1<<20)
	writeFile(t, name, content)
	src, err := block.Open(t.Context(), allDrivers(), block.Source{Filename: name, Format: "raw"}, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close(t.Context())
	target := filepath.Join(dir, "y")
	writeFile(t, target, content)
	_, err = ops.Copy(t.Context(), ops.CopyJob{Sources: []*block.Image{src}, Compress: true,
		New: &ops.CreateJob{Registry: allDrivers(), Filename: target, Format: "qcow2", Options: opts.Dict{"data_file": filepath.Join(dir, "data")}, Gate: driver.AllowAll}})
	if got, e := os.ReadFile(target); !errors.Is(err, driver.ErrUnsupported) || e != nil || !bytes.Equal(got, content) {
		t.Errorf("%v; the target is read: %v", err, e)
	}
}

// TestJobsWithoutMuch runs jobs that lack what has no default.
func TestJobsWithoutMuch(t *testing.T) {
	_, copied := ops.Copy(t.Context(), ops.CopyJob{})
	_, converted := ops.Convert(t.Context(), ops.ConvertJob{})
	for what, err := range map[string]error{"Copy": copied, "Convert": converted, "Create": ops.Create(t.Context(), ops.CreateJob{})} {
		if !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
