package qcow2

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// diskFile is a Storage over an operating system file, without any of the
// optional interfaces.
type diskFile struct{ *os.File }

func openDiskFile(t testing.TB, path string) *diskFile {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &diskFile{f}
}

func (f *diskFile) Size() int64 {
	st, err := f.Stat()
	if err != nil {
		return 0
	}
	return st.Size()
}
func (f *diskFile) Limits() driver.Limits { return driver.Limits{} }
func (f *diskFile) Traits() driver.Traits {
	return driver.Traits{ZeroInit: true, ZeroOnGrow: true}
}
func (f *diskFile) Flush(context.Context) error { return nil }
func (f *diskFile) Close(context.Context) error { return nil }
func (f *diskFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.ReadAt(p, off)
}
func (f *diskFile) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	return f.File.WriteAt(p, off)
}
func (f *diskFile) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= f.Size() {
		return driver.Extent{}, nil
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(n, f.Size()-off), HostOffset: off, HasOffset: true}, nil
}
func (f *diskFile) Resize(_ context.Context, size int64, opt driver.ResizeOptions) error {
	if opt.Prealloc == driver.PreallocFull || opt.Prealloc == driver.PreallocFalloc {
		return driver.ErrUnsupported
	}
	return f.Truncate(size)
}

// memFile is a Storage in memory.
type memFile struct {
	diskFile
	b []byte
}

func (f *memFile) Size() int64 { return int64(len(f.b)) }
func (f *memFile) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(f.b)) {
		return 0, io.EOF
	}
	n := copy(p, f.b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
func (f *memFile) WriteAt(_ context.Context, p []byte, off int64) (int, error) {
	if end := off + int64(len(p)); end > int64(len(f.b)) {
		if end > 1<<28 {
			return 0, errors.New("memory file would grow beyond 256 MiB")
		}
		f.b = append(f.b, make([]byte, end-int64(len(f.b)))...)
	}
	return copy(f.b[off:], p), nil
}
func (f *memFile) Resize(_ context.Context, size int64, _ driver.ResizeOptions) error {
	if size > 1<<28 {
		return errors.New("memory file would grow beyond 256 MiB")
	}
	if size <= int64(len(f.b)) {
		f.b = f.b[:size]
		return nil
	}
	f.b = append(f.b, make([]byte, size-int64(len(f.b)))...)
	return nil
}
func (f *memFile) Map(_ context.Context, off, n int64) (driver.Extent, error) {
	if off >= f.Size() {
		return driver.Extent{}, nil
	}
	return driver.Extent{Kind: driver.ExtentData, Length: min(n, f.Size()-off), HostOffset: off, HasOffset: true}, nil
}

func testEnv() *driver.Env {
	return &driver.Env{Gate: driver.AllowAll, Budget: &driver.Budget{}, Warn: func(string) {}, Report: func(string) {}, Guard: &driver.Guard{}}
}

// needTool skips the test if a tool of QEMU is missing.
func needTool(t testing.TB, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed", name)
	}
}

// toolRun is what a run of QEMU gave.
type toolRun struct {
	stdout, stderr string
	code           int
}

func runTool(t testing.TB, name string, args ...string) toolRun {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return toolRun{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

func mustTool(t testing.TB, name string, args ...string) string {
	t.Helper()
	r := runTool(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// createImage makes an image with our driver; the error is that of Create.
func createImage(t testing.TB, path string, size int64, options string) error {
	t.Helper()
	d := opts.Dict{}
	if err := d.ParseList(options, ""); err != nil {
		t.Fatal(err)
	}
	return new(Driver).Create(context.Background(), &driver.CreateRequest{
		Filename: path, Size: size, Options: d, File: openDiskFile(t, path), Env: testEnv(),
		CreateChild: func(_ context.Context, name string, size int64) (driver.Storage, error) {
			if !filepath.IsAbs(name) {
				name = filepath.Join(filepath.Dir(path), name)
			}
			f := openDiskFile(t, name)
			return f, f.Truncate(size)
		},
	})
}

func parseJSON[T any](t testing.TB, text string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(text), &v); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	return v
}
