package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

var ctx = context.Background()

// storage is all that a node of this package can do.
type storage interface {
	driver.Storage
	driver.ZeroWriter
	driver.Discarder
	driver.Resizer
	driver.RangeCopier
	driver.Relocker
}

func tryOpen(drv driver.Driver, access driver.Access, cache driver.Cache, o opts.Dict) (storage, error) {
	n, err := drv.Open(ctx, &driver.OpenRequest{Options: o, Access: access, Cache: cache})
	if err != nil {
		return nil, err
	}
	return n.(storage), nil
}

func open(t testing.TB, path string, write bool, cache driver.Cache) storage {
	t.Helper()
	drv := file.New()
	if file.IsDevice(path) {
		drv = file.NewHostDevice()
	}
	s, err := tryOpen(drv, driver.Access{Write: write, Shared: driver.PermAll}, cache, opts.Dict{"filename": path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(ctx) })
	return s
}

// caches are the cache modes to test.
func caches() map[string]driver.Cache {
	m := map[string]driver.Cache{"writeback": {}}
	if runtime.GOOS == "linux" || runtime.GOOS == "darwin" {
		m["none"] = driver.Cache{Direct: true}
	}
	return m
}

func create(t testing.TB, path string, size int64, o opts.Dict) error {
	t.Helper()
	return file.New().(driver.Creator).Create(ctx, &driver.CreateRequest{Filename: path, Size: size, Options: o})
}

func mustCreate(t testing.TB, path string, size int64) string {
	t.Helper()
	if err := create(t, path, size, nil); err != nil {
		t.Fatal(err)
	}
	return path
}

// exercise runs random operations beside a model. size changes if resize is set.
func exercise(t *testing.T, s storage, m *testkit.Model, seed uint64, steps int, resize bool, unit int64) {
	t.Helper()
	r := testkit.Rand(seed)
	for i := range steps {
		size := m.Size()
		off := r.Int64N(size) / unit * unit
		n := min(size-off, (1+r.Int64N(300000))/unit*unit+unit)
		if r.IntN(2) == 0 {
			n = min(n, (1+r.Int64N(5000))/unit*unit+unit)
		}
		switch r.IntN(8) {
		case 0, 1, 2:
			p := make([]byte, n+7)[r.IntN(8):][:n]
			testkit.FillDisk(r, p)
			if _, err := s.WriteAt(ctx, p, off); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			m.Write(p, off)
		case 3:
			flags := driver.ZeroFlags(0)
			if r.IntN(2) == 0 {
				flags = driver.ZeroMayUnmap
			}
			err := s.WriteZeroes(ctx, off, n, flags)
			if errors.Is(err, driver.ErrUnsupported) {
				continue
			}
			if err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			m.Zero(off, n)
		case 4:
			if !resize { // devices may leave anything in a discarded range
				continue
			}
			if err := s.Discard(ctx, off, n); err == nil {
				m.Zero(off, n)
			} else if !errors.Is(err, driver.ErrUnsupported) {
				t.Fatalf("step %d: %v", i, err)
			}
		case 5:
			if !resize {
				continue
			}
			size := 1 + r.Int64N(2<<20)
			if err := s.Resize(ctx, size, driver.ResizeOptions{}); err != nil {
				t.Fatalf("step %d: %v", i, err)
			}
			m.Resize(size)
			if s.Size() != size {
				t.Fatalf("step %d: size %d, want %d", i, s.Size(), size)
			}
		case 6:
			if resize && r.IntN(3) == 0 { // extend by writing
				p := []byte("the end")
				m.Resize(size + 1000 + int64(len(p)))
				m.Write(p, size+1000)
				if _, err := s.WriteAt(ctx, p, size+1000); err != nil {
					t.Fatalf("step %d: %v", i, err)
				}
				continue
			}
			checkMap(t, s, m)
		default:
			p := make([]byte, n+7)[r.IntN(8):][:n]
			if _, err := s.ReadAt(ctx, p, off); err != nil {
				t.Fatalf("step %d: read %d+%d of %d: %v", i, off, n, size, err)
			}
			if d := m.Diff(p, off); d != "" {
				t.Fatalf("step %d: %s", i, d)
			}
		}
	}
	if s.Size() != m.Size() {
		t.Fatalf("size %d, want %d", s.Size(), m.Size())
	}
	p := make([]byte, m.Size()+100)
	if n, err := s.ReadAt(ctx, p, 0); int64(n) != m.Size() || err != io.EOF {
		t.Fatalf("reading all: %d bytes, %v", n, err)
	}
	if d := m.Diff(p[:m.Size()], 0); d != "" {
		t.Fatal(d)
	}
	checkMap(t, s, m)
}

// checkMap walks all extents: they tile the file and holes hold nothing.
func checkMap(t *testing.T, s driver.Storage, m *testkit.Model) {
	t.Helper()
	var off int64
	for off < m.Size() {
		e, err := s.Map(ctx, off, m.Size()-off)
		if err != nil || e.Length <= 0 || e.Length > m.Size()-off {
			t.Fatalf("Map(%d) = %+v, %v", off, e, err)
		}
		if e.Kind == driver.ExtentZero {
			if d := m.DiffZero(off, e.Length); d != "" {
				t.Fatalf("Map calls %d+%d a hole: %s", off, e.Length, d)
			}
		}
		off += e.Length
	}
	if e, err := s.Map(ctx, off, 1); err != nil || e.Kind != driver.ExtentEOF {
		t.Fatalf("Map at the end: %+v, %v", e, err)
	}
}

func TestRandomOperations(t *testing.T) {
	for name, cache := range caches() {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(4) {
				path := mustCreate(t, filepath.Join(t.TempDir(), "x"), 1<<20)
				m := testkit.NewModel(1 << 20)
				exercise(t, open(t, path, true, cache), m, seed, 150, true, 1)
				// What one cache mode wrote the other reads.
				b, err := os.ReadFile(path)
				if err != nil || int64(len(b)) != m.Size() {
					t.Fatal(len(b), err)
				}
				if d := m.Diff(b, 0); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
}

// TestConcurrentNeighbours writes pieces smaller than any block from several
// goroutines: with direct I/O, none may undo what its neighbours write.
func TestConcurrentNeighbours(t *testing.T) {
	for name, cache := range caches() {
		t.Run(name, func(t *testing.T) {
			const piece, pieces, writers = 700, 64, 4
			s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 0), true, cache)
			var wg sync.WaitGroup
			for w := range writers {
				wg.Go(func() {
					for round := range 3 {
						for i := w; i < pieces; i += writers {
							p := bytes.Repeat([]byte{byte(i + round)}, piece)
							if _, err := s.WriteAt(ctx, p, int64(i*piece)); err != nil {
								t.Error(err)
								return
							}
							got := make([]byte, piece)
							if _, err := s.ReadAt(ctx, got, int64(i*piece)); err != nil || !bytes.Equal(got, p) {
								t.Errorf("piece %d: %v", i, err)
								return
							}
							if _, err := s.Map(ctx, int64(i*piece), piece); err != nil {
								t.Error(err)
							}
						}
					}
				})
			}
			wg.Wait()
			if s.Size() != piece*pieces {
				t.Fatalf("size %d, want %d", s.Size(), piece*pieces)
			}
			p := make([]byte, piece*pieces)
			if _, err := s.ReadAt(ctx, p, 0); err != nil {
				t.Fatal(err)
			}
			for i, b := range p {
				if b != byte(i/piece+2) {
					t.Fatalf("byte %d is %d", i, b)
				}
			}
		})
	}
}

func TestErrorsOfOpening(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the system words its errors otherwise")
	}
	dir := t.TempDir()
	plain := mustCreate(t, filepath.Join(dir, "plain"), 1000)
	for _, c := range []struct {
		name string
		drv  driver.Driver
		o    opts.Dict
		is   error
		text string
	}{
		{"missing", file.New(), opts.Dict{"filename": dir + "/no"}, fs.ErrNotExist, "could not open '" + dir + "/no': no such file or directory"},
		{"not a directory", file.New(), opts.Dict{"filename": plain + "/x"}, nil, "could not open '" + plain + "/x': not a directory"},
		{"directory", file.New(), opts.Dict{"filename": dir}, nil, "'file' driver requires '" + dir + "' to be a regular file"},
		{"no drive", file.NewHostCDROM(), opts.Dict{"filename": plain}, nil, "'host_cdrom' driver requires '" + plain + "' to be either a character or block device"},
		{"no device", file.NewHostDevice(), opts.Dict{"filename": plain}, nil, "'host_device' driver requires '" + plain + "' to be either a character or block device"},
		{"no name", file.New(), nil, driver.ErrInvalid, "the 'file' block driver requires a file name"},
		{"aio", file.New(), opts.Dict{"filename": plain, "aio": "foo"}, nil, "invalid parameter value: foo"},
		{"aio=native", file.New(), opts.Dict{"filename": plain, "aio": "native"}, nil, "aio=native was specified, but it requires cache.direct=on, which was not specified"},
		{"locking", file.New(), opts.Dict{"filename": plain, "locking": "maybe"}, nil, "invalid parameter value: maybe"},
		{"pr-manager", file.New(), opts.Dict{"filename": plain, "pr-manager": "foo"}, nil, "no persistent reservation manager with id 'foo'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryOpen(c.drv, driver.Access{}, driver.Cache{}, c.o)
			if err == nil || err.Error() != c.text {
				t.Fatalf("%v, want %s", err, c.text)
			}
			if c.is != nil && !errors.Is(err, c.is) {
				t.Fatalf("%v is not %v", err, c.is)
			}
		})
	}
	var unknown *opts.UnknownError
	if _, err := tryOpen(file.New(), driver.Access{}, driver.Cache{}, opts.Dict{"filename": plain, "foo": "1"}); !errors.As(err, &unknown) {
		t.Fatal(err)
	}
	for _, o := range []opts.Dict{{"aio": "io_uring"}, {"aio-max-batch": "3"}, {"drop-cache": "off", "x-check-cache-dropped": "on"}, {"locking": "off"}} {
		o["filename"] = plain
		s, err := tryOpen(file.New(), driver.Access{}, driver.Cache{}, o)
		if err != nil {
			t.Fatal(o, err)
		}
		s.Close(ctx)
	}
}

func TestReadOnly(t *testing.T) {
	s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 1000), false, driver.Cache{})
	_, err := s.WriteAt(ctx, []byte("x"), 0)
	for _, err := range []error{err, s.WriteZeroes(ctx, 0, 1, 0), s.Discard(ctx, 0, 1), s.Resize(ctx, 5, driver.ResizeOptions{})} {
		if !errors.Is(err, driver.ErrReadOnly) {
			t.Error(err)
		}
	}
	if err := s.Flush(ctx); err != nil {
		t.Error(err)
	}
}

func TestCreateReplacesAndDeletes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	if err := os.WriteFile(path, bytes.Repeat([]byte("old"), 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := create(t, "file:"+path, 1000, nil); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil || len(b) != 1024 || strings.Trim(string(b), "\x00") != "" {
		t.Fatal(len(b), err)
	}
	del := file.New().(driver.Deleter)
	if err := del.Delete(ctx, path); err != nil {
		t.Fatal(err)
	}
	if err := del.Delete(ctx, path); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

func TestCreateRefuses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x")
	for mode, text := range map[string]string{"foo": "invalid parameter value: foo", "metadata": "unsupported preallocation mode: metadata"} {
		if err := create(t, path, 1000, opts.Dict{"preallocation": mode}); err == nil || err.Error() != text {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if err := create(t, path, 1000, opts.Dict{"extent_size_hint": "8G"}); err == nil || err.Error() != "extent size hint is too large" {
		t.Error(err)
	}
	if err := create(t, filepath.Dir(path), 1000, nil); err == nil || err.Error() != "could not create '"+filepath.Dir(path)+"': is a directory" {
		t.Error(err)
	}
	if err := create(t, path, -1, nil); err == nil {
		t.Error("a negative size was accepted")
	}
}

func TestResizeErrors(t *testing.T) {
	s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 4096), true, driver.Cache{})
	for _, c := range []struct {
		size int64
		mode driver.Prealloc
		text string
	}{
		{1000, driver.PreallocFull, "cannot use preallocation for shrinking files"},
		{8192, driver.PreallocMetadata, "unsupported preallocation mode: metadata"},
		{-1, "", "negative size"},
	} {
		if err := s.Resize(ctx, c.size, driver.ResizeOptions{Prealloc: c.mode}); err == nil || err.Error() != c.text {
			t.Errorf("%d %s: %v", c.size, c.mode, err)
		}
	}
	if s.Size() != 4096 {
		t.Error(s.Size())
	}
	for _, mode := range []driver.Prealloc{driver.PreallocFalloc, driver.PreallocFull} {
		size := s.Size() + 100001
		if err := s.Resize(ctx, size, driver.ResizeOptions{Prealloc: mode}); err != nil {
			t.Fatal(err)
		}
		if used, err := driver.DiskUsage(ctx, s); err != nil || s.Size() != size || used >= 0 && used < size-4096 {
			t.Errorf("%s: size %d, %d, %v", mode, s.Size(), used, err)
		}
	}
}

func TestCancelledContext(t *testing.T) {
	s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 4096), true, driver.Cache{})
	c, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.ReadAt(c, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := s.WriteAt(c, make([]byte, 10), 0); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestImpossibleRanges(t *testing.T) {
	for _, cache := range caches() {
		s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 4096), true, cache)
		if _, err := s.ReadAt(ctx, make([]byte, 10), -1); !errors.Is(err, driver.ErrInvalid) {
			t.Error(err)
		}
		if _, err := s.WriteAt(ctx, make([]byte, 10), 1<<63-5); !errors.Is(err, driver.ErrInvalid) {
			t.Error(err)
		}
		if n, err := s.ReadAt(ctx, make([]byte, 10), 1<<62); n != 0 || err != io.EOF {
			t.Error(n, err)
		}
		if n, err := s.ReadAt(ctx, nil, 10); n != 0 || err != nil {
			t.Error(n, err)
		}
	}
}

// TestMapSeesChanges asks for the same place again and again: the answer of last
// time must not be given once it is wrong.
func TestMapSeesChanges(t *testing.T) {
	s := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 1<<20), true, driver.Cache{})
	kind := func() driver.ExtentKind {
		t.Helper()
		e, err := s.Map(ctx, 512<<10, 4096)
		if err != nil {
			t.Fatal(err)
		}
		return e.Kind
	}
	if kind() != driver.ExtentZero {
		t.Skip("this file system does not show holes")
	}
	for round := range 3 {
		if _, err := s.WriteAt(ctx, []byte{1}, 512<<10+100); err != nil || kind() != driver.ExtentData {
			t.Fatalf("round %d: what was written is a hole: %v", round, err)
		}
		if err := s.WriteZeroes(ctx, 512<<10, 4096, driver.ZeroMayUnmap); errors.Is(err, driver.ErrUnsupported) {
			return
		} else if err != nil || kind() != driver.ExtentZero {
			t.Fatalf("round %d: the hole does not show: %v", round, err)
		}
	}
}
