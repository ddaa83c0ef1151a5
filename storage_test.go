package cowl_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/block/driver"
)

// object is what a caller may have: bytes in memory. It counts the calls of Sync.
type object struct {
	mu     sync.Mutex
	b      []byte
	synced int
}

func (o *object) ReadAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.NewReader(o.b).ReadAt(p, off)
}

func (o *object) WriteAt(p []byte, off int64) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if end := int(off) + len(p); end > len(o.b) {
		o.b = append(o.b, make([]byte, end-len(o.b))...)
	}
	return copy(o.b[off:], p), nil
}

func (o *object) Truncate(size int64) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.b = append(o.b[:min(len(o.b), int(size))], make([]byte, max(0, int(size)-len(o.b)))...)
	return nil
}

func (o *object) Sync() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.synced++
	return nil
}

// fixed hides all but the two methods that must be there.
type fixed struct{ cowl.ReadWriterAt }

// seekOnly is a file that has no ReadAt.
type seekOnly struct {
	fs.File
	s io.Seeker
}

func (f seekOnly) Seek(off int64, whence int) (int64, error) { return f.s.Seek(off, whence) }

// readOnlyFile has neither ReadAt nor Seek.
type readOnlyFile struct{ fs.File }

// fill makes an image on s, writes text near its end, and closes it.
func fill(t *testing.T, s cowl.Storage, format, text string) {
	t.Helper()
	ctx := t.Context()
	if err := cowl.Create(ctx, cowl.CreateJob{Storage: s, Format: format, Size: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	img, err := cowl.Open(ctx, cowl.Source{Storage: s, Format: format}, cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := img.WriteAt(ctx, []byte(text), 3<<20); err != nil {
		t.Fatal(err)
	}
	if err := img.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	if err := img.Close(ctx); err != nil {
		t.Fatal(err)
	}
}

// expect opens the image on s and compares.
func expect(t *testing.T, s cowl.Storage, format, text string) {
	t.Helper()
	img, err := cowl.Open(t.Context(), cowl.Source{Storage: s, Format: format}, cowl.OpenOptions{Gate: cowl.DenyAll()})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	got := make([]byte, len(text))
	if _, err := img.ReadAt(t.Context(), got, 3<<20); err != nil || string(got) != text || img.Size() != 4<<20 {
		t.Errorf("%q, size %d, %v", got, img.Size(), err)
	}
	if _, err := img.WriteAt(t.Context(), got, 0); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("a write to an image that is open for reading: %v", err)
	}
}

func TestStorage(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		o := &object{b: []byte("what was there before")}
		fill(t, cowl.FromReadWriterAt(o, int64(len(o.b))), format, "hello")
		if o.synced == 0 {
			t.Error("a flush did not reach Sync")
		}
		size := int64(len(o.b))
		expect(t, cowl.FromReaderAt(bytes.NewReader(o.b), size), format, "hello")
		expect(t, cowl.FromReadWriterAt(fixed{o}, size), format, "hello")
		if format == "qcow2" {
			expect(t, cowl.FromReaderAt(bytes.NewReader(o.b), size), "", "hello")
		}

		file := fstest.MapFS{"disk": {Data: o.b}}
		for name, wrap := range map[string]func(fs.File) fs.File{
			"ReadAt": func(f fs.File) fs.File { return f },
			"Seek":   func(f fs.File) fs.File { return seekOnly{f, f.(io.Seeker)} },
		} {
			f, err := file.Open("disk")
			if err != nil {
				t.Fatal(err)
			}
			s, err := cowl.FromFS(wrap(f))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			expect(t, s, format, "hello")
		}
	}
	f, err := fstest.MapFS{"disk": {}}.Open("disk")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cowl.FromFS(readOnlyFile{f}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("a file that can only be read in order: %v", err)
	}
}

// TestStorageFile: the caller's file stays open, and has the holes of a file.
func TestStorageFile(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		name := filepath.Join(t.TempDir(), "disk")
		f, err := os.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		s, err := cowl.FromFile(f)
		if err != nil {
			t.Fatal(err)
		}
		fill(t, s, format, "hello")
		expect(t, s, format, "hello")

		img, err := cowl.Open(t.Context(), cowl.Source{Storage: s, Format: format}, cowl.OpenOptions{Gate: cowl.DenyAll()})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cowl.Open(t.Context(), cowl.Source{Storage: s, Format: format}, cowl.OpenOptions{Gate: cowl.DenyAll()}); !errors.Is(err, driver.ErrLocked) {
			t.Errorf("a second image on one file: %v", err)
		}
		if st, err := img.Status(t.Context(), 1<<20, 1<<20, nil); err != nil || !st.Zero || st.Length != 1<<20 {
			t.Errorf("%s: the hole is not found: %+v, %v", format, st, err)
		}
		if err := img.Close(t.Context()); err != nil {
			t.Fatal(err)
		}

		ro, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer ro.Close()
		s, err = cowl.FromFS(ro)
		if err != nil {
			t.Fatal(err)
		}
		expect(t, s, format, "hello")
		if _, err := cowl.Open(t.Context(), cowl.Source{Storage: s, Format: format}, cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()}); !errors.Is(err, driver.ErrReadOnly) {
			t.Errorf("opened for writing on a file that is open for reading: %v", err)
		}
		expect(t, s, format, "hello") // the failure has released the file
	}
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if _, err := cowl.FromFile(dir); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("a directory: %v", err)
	}
}

// TestStorageFixed: what cannot grow is a device.
func TestStorageFixed(t *testing.T) {
	ctx := t.Context()
	o := &object{b: bytes.Repeat([]byte{0xee}, 3<<20)}
	s := cowl.FromReadWriterAt(fixed{o}, 3<<20)
	if err := cowl.Create(ctx, cowl.CreateJob{Storage: s, Format: "raw", Size: 4 << 20}); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a raw image larger than its storage: %v", err)
	}
	if err := cowl.Create(ctx, cowl.CreateJob{Storage: s, Format: "qcow2", Size: 4 << 20}); err != nil {
		t.Fatal(err)
	}
	img, err := cowl.Open(ctx, cowl.Source{Storage: s, Format: "qcow2"}, cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	if zero, err := img.ReadsZero(ctx, 0, img.Size()); err != nil || !zero {
		t.Errorf("a new image does not read as zeroes: %v", err)
	}
	if _, err := img.WriteAt(ctx, make([]byte, 4<<20), 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("a write beyond the storage: %v", err)
	}
	if len(o.b) != 3<<20 {
		t.Errorf("the storage has %d bytes now", len(o.b))
	}
}

// TestStorageCopy copies between what the caller has, and never onto itself.
func TestStorageCopy(t *testing.T) {
	ctx := t.Context()
	from, to := &object{}, &object{b: make([]byte, 9<<20)}
	src, dst := cowl.FromReadWriterAt(from, 0), cowl.FromReadWriterAt(to, 9<<20)
	fill(t, src, "qcow2", "hello")
	if _, err := cowl.Copy(ctx, cowl.CopyJob{Files: []cowl.Source{{Storage: src, Format: "qcow2"}}, New: &cowl.CreateJob{Storage: dst, Format: "raw"}}); err != nil {
		t.Fatal(err)
	}
	if len(to.b) != 4<<20 || string(to.b[3<<20:3<<20+5]) != "hello" {
		t.Errorf("%d bytes", len(to.b))
	}
	before := bytes.Clone(from.b)
	_, err := cowl.Copy(ctx, cowl.CopyJob{Files: []cowl.Source{{Storage: src, Format: "qcow2"}}, New: &cowl.CreateJob{Storage: src, Format: "raw"}})
	if !errors.Is(err, driver.ErrInvalid) || !bytes.Equal(from.b, before) {
		t.Errorf("copied onto itself: %v", err)
	}
}

// TestStorageMisuse: what cannot be meant is refused by name.
func TestStorageMisuse(t *testing.T) {
	ctx := t.Context()
	s := cowl.FromReaderAt(strings.NewReader("short"), 1<<20)
	o := cowl.OpenOptions{Gate: cowl.DenyAll()}
	for name, src := range map[string]cowl.Source{
		"two places": {Storage: s, Filename: "disk", Format: "raw"},
		"json":       {Storage: s, Filename: `json:{"driver":"raw","file":{"driver":"file","filename":"disk"}}`},
		"a protocol": {Storage: s, Format: "file"},
		"an option":  {Storage: s, Format: "raw", Options: map[string]any{"file.filename": "disk"}},
		"unknown":    {Storage: s, Format: "raw", Options: map[string]any{"file.nonsense": "1"}},
		"negative":   {Storage: cowl.FromReaderAt(strings.NewReader(""), -1), Format: "raw"},
	} {
		if img, err := cowl.Open(ctx, src, o); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
			if img != nil {
				img.Close(ctx)
			}
		}
	}
	if _, err := cowl.Open(ctx, cowl.Source{Storage: s, Format: "raw"}, cowl.OpenOptions{Gate: cowl.DenyAll(), Write: true}); !errors.Is(err, driver.ErrReadOnly) {
		t.Errorf("a reader opened for writing: %v", err)
	}
	img, err := cowl.Open(ctx, cowl.Source{Storage: s, Format: "raw"}, o)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	if _, err := img.ReadAt(ctx, make([]byte, 512), 0); !errors.Is(err, driver.ErrTruncated) {
		t.Errorf("a reader that is shorter than it was said to be: %v", err)
	}
	for name, job := range map[string]cowl.CreateJob{
		"two places": {Storage: s, Filename: "disk", Format: "raw", Size: 1},
		"a protocol": {Storage: s, Format: "file", Size: 1},
		"an option":  {Storage: s, Format: "raw", Size: 1, Options: map[string]any{"preallocation": "full"}},
	} {
		if err := cowl.Create(ctx, job); err == nil {
			t.Errorf("%s: created", name)
		}
	}
}

// TestStorageGate: a stranger's image names a file, and does not get it.
func TestStorageGate(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, bytes.Repeat([]byte("secret.."), 64), 0o600); err != nil {
		t.Fatal(err)
	}
	o, format := &object{}, "raw"
	s := cowl.FromReadWriterAt(o, 0)
	if err := cowl.Create(ctx, cowl.CreateJob{Storage: s, Format: "qcow2", Backing: &secret, BackingFormat: &format, Gate: cowl.AllowAll()}); err != nil {
		t.Fatal(err)
	}
	src := cowl.Source{Storage: cowl.FromReaderAt(bytes.NewReader(o.b), int64(len(o.b))), Format: "qcow2"}
	if img, err := cowl.Open(ctx, src, cowl.OpenOptions{Gate: cowl.DenyAll()}); !errors.Is(err, driver.ErrGate) {
		t.Errorf("opened: %v, %v", img, err)
	}
	asked := ""
	gate := cowl.GateFunc(func(_ context.Context, _, role, target string) error {
		asked += role + " " + target
		return nil
	})
	img, err := cowl.Open(ctx, src, cowl.OpenOptions{Gate: gate})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(ctx)
	got := make([]byte, 8)
	if _, err := img.ReadAt(ctx, got, 0); err != nil || string(got) != "secret.." || asked != "backing "+secret {
		t.Errorf("%q, %v, asked for %q", got, err, asked)
	}
}

// TestCopyRate: a copy tells its rate, which the front door has computed.
func TestCopyRate(t *testing.T) {
	src := cowl.FromReaderAt(bytes.NewReader(bytes.Repeat([]byte{1}, 8<<20)), 8<<20)
	rate := int64(0)
	_, err := cowl.Copy(t.Context(), cowl.CopyJob{
		Files: []cowl.Source{{Storage: src, Format: "raw"}}, New: &cowl.CreateJob{Storage: cowl.FromReadWriterAt(&object{}, 0), Format: "raw"},
		RateLimit: 8 << 20, Progress: func(p cowl.Progress) { rate = max(rate, p.Rate) }})
	if err != nil || rate == 0 {
		t.Errorf("rate %d, %v", rate, err)
	}
}
