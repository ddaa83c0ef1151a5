package file_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/qapi"
)

// TestFileSystems runs the random operations where each has its own ideas about
// holes, alignment and direct I/O.
func TestFileSystems(t *testing.T) {
	for _, fstype := range []string{"btrfs", "xfs", "ext4", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			size := "512M"
			if fstype == "ext4" {
				size = "64M"
			}
			dir := testkit.Mount(t, fstype, size)
			for name, cache := range caches() {
				path := mustCreate(t, filepath.Join(dir, name), 1<<20)
				s := open(t, path, true, cache)
				exercise(t, s, testkit.NewModel(1<<20), 7, 200, true, 1)
				if err := s.Close(ctx); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestHoles: what was never written, discarded or zeroed with permission to
// unmap is a hole; the rest of the file is data.
func TestHoles(t *testing.T) {
	for _, fstype := range []string{"btrfs", "xfs", "tmpfs"} {
		t.Run(fstype, func(t *testing.T) {
			s := open(t, mustCreate(t, filepath.Join(testkit.Mount(t, fstype, "512M"), "x"), 0), true, driver.Cache{})
			if _, err := s.WriteAt(ctx, bytes.Repeat([]byte{1}, 1<<20), 1<<20); err != nil {
				t.Fatal(err)
			}
			kind := func(off int64) driver.ExtentKind {
				t.Helper()
				e, err := s.Map(ctx, off, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				return e.Kind
			}
			if kind(512<<10) != driver.ExtentZero || kind(1<<20) != driver.ExtentData {
				t.Error("written in the wrong place")
			}
			if err := s.WriteZeroes(ctx, 1<<20, 256<<10, driver.ZeroMayUnmap); err != nil || kind(1<<20) != driver.ExtentZero {
				t.Error("zeroes did not become a hole", err)
			}
			if err := s.Discard(ctx, 1280<<10, 256<<10); err != nil || kind(1280<<10) != driver.ExtentZero || kind(1536<<10) != driver.ExtentData {
				t.Error("the discarded range did not become a hole", err)
			}
			before, _ := driver.DiskUsage(ctx, s)
			if err := s.WriteZeroes(ctx, 1<<20, 2<<20, 0); err != nil || s.Size() != 3<<20 {
				t.Error("zeroes did not extend the file", err, s.Size())
			}
			if after, _ := driver.DiskUsage(ctx, s); after-before < 1<<20 {
				t.Errorf("zeroes have no room on disk: %d after %d", after, before)
			}
		})
	}
}

func TestCopyFrom(t *testing.T) {
	content := make([]byte, 4<<20)
	testkit.Fill(testkit.Rand(1), content)
	other := open(t, mustCreate(t, filepath.Join(t.TempDir(), "x"), 1<<20), true, driver.Cache{})
	for _, fstype := range []string{"btrfs", "xfs", "tmpfs", "ext4"} {
		t.Run(fstype, func(t *testing.T) {
			dir := testkit.Mount(t, fstype, "512M")
			src := open(t, mustCreate(t, filepath.Join(dir, "src"), 0), true, driver.Cache{})
			if _, err := src.WriteAt(ctx, content[:3<<20+1000], 0); err != nil {
				t.Fatal(err)
			}
			reflinks := fstype == "btrfs" || fstype == "xfs"
			for _, c := range []struct {
				name        string
				src         driver.Storage
				from, to, n int64
				mode        driver.CopyMode
				want        int64 // with reflinks
				wantOther   int64 // without
			}{
				{"reflink whole blocks", src, 1 << 20, 4096, 1 << 20, driver.CopyReflink, 1 << 20, 0},
				{"reflink up to the end", src, 0, 0, 4 << 20, driver.CopyReflink, 3<<20 + 1000, 0},
				{"reflink a prefix", src, 0, 0, 10000, driver.CopyReflink, 8192, 0},
				{"reflink unaligned", src, 1, 1, 1 << 20, driver.CopyReflink, 0, 0},
				{"reflink nothing whole", src, 0, 0, 1000, driver.CopyReflink, 0, 0},
				{"offload unaligned", src, 1, 777, 1 << 20, driver.CopyOffload, 1 << 20, 1 << 20},
				{"either, unaligned", src, 1, 777, 1 << 20, driver.CopyOffload | driver.CopyReflink, 1 << 20, 1 << 20},
				{"beyond the end", src, 4 << 20, 0, 1 << 20, driver.CopyOffload | driver.CopyReflink, 0, 0},
				{"wrapped", wrapper{src}, 0, 0, 4096, driver.CopyOffload, 4096, 4096},
				{"other file system", other, 0, 0, 4096, driver.CopyReflink, 0, 0},
				{"no mode", src, 0, 0, 4096, 0, 0, 0},
			} {
				t.Run(c.name, func(t *testing.T) {
					dst := open(t, mustCreate(t, filepath.Join(dir, "dst"), 0), true, driver.Cache{})
					want := c.want
					if !reflinks {
						want = c.wantOther
					}
					got, err := dst.CopyFrom(ctx, c.src, c.from, c.to, c.n, c.mode)
					if got != want || (got == 0) != errors.Is(err, driver.ErrUnsupported) || got > 0 && err != nil {
						t.Fatalf("copied %d, want %d: %v", got, want, err)
					}
					if got == 0 {
						return
					}
					p := make([]byte, got)
					if n, err := dst.ReadAt(ctx, p, c.to); int64(n) != got || err != nil || dst.Size() != c.to+got {
						t.Fatalf("read %d, size %d: %v", n, dst.Size(), err)
					}
					if !bytes.Equal(p, content[c.from:c.from+got]) {
						t.Fatal("wrong bytes")
					}
				})
			}
		})
	}
}

// wrapper stands for a storage, as images of the block layer do.
type wrapper struct{ driver.Storage }

func (w wrapper) Unwrap() driver.Storage { return w.Storage }

// TestFull fills a file system: the errno must come through, and files keep the
// length that they had.
func TestFull(t *testing.T) {
	dir := testkit.Mount(t, "tmpfs", "4M")
	path := mustCreate(t, filepath.Join(dir, "x"), 4096)
	s := open(t, path, true, driver.Cache{})
	for _, mode := range []driver.Prealloc{driver.PreallocFalloc, driver.PreallocFull} {
		text := map[driver.Prealloc]string{
			driver.PreallocFalloc: "could not preallocate new data: no space left on device",
			driver.PreallocFull:   "could not write zeros for preallocation: no space left on device",
		}[mode]
		err := s.Resize(ctx, 16<<20, driver.ResizeOptions{Prealloc: mode})
		if !errors.Is(err, syscall.ENOSPC) || err.Error() != text {
			t.Errorf("%s: %v", mode, err)
		}
		if st, err := os.Stat(path); err != nil || st.Size() != 4096 || s.Size() != 4096 {
			t.Errorf("%s: the file has changed: %v", mode, err)
		}
	}
	n, err := s.WriteAt(ctx, bytes.Repeat([]byte{1}, 16<<20), 0)
	st, _ := os.Stat(path)
	if !errors.Is(err, syscall.ENOSPC) || n >= 16<<20 || s.Size() != st.Size() || st.Size() < 3<<20 {
		t.Errorf("wrote %d, size %d and really %d: %v", n, s.Size(), st.Size(), err)
	}
	if err := s.WriteZeroes(ctx, 4<<20, 16<<20, 0); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("zeroes: %v", err)
	}
}

func TestBlockDevice(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(backing, bytes.Repeat([]byte("QFI\xfb"), 256<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := testkit.LoopDevice(t, backing)
	if !file.IsDevice(dev) || file.IsDevice(backing) {
		t.Fatal("IsDevice is wrong")
	}
	if _, err := tryOpen(file.New(), driver.Access{}, driver.Cache{}, opts.Dict{"filename": dev}); err == nil ||
		err.Error() != "'file' driver requires '"+dev+"' to be a regular file" {
		t.Fatal(err)
	}
	creator := file.NewHostDevice().(driver.Creator)
	for _, c := range []struct {
		size int64
		o    opts.Dict
		text string
	}{
		{2 << 20, nil, "cannot grow device files"},
		{1 << 20, opts.Dict{"preallocation": "full"}, "unsupported preallocation mode 'full'"},
		{1 << 19, nil, ""},
	} {
		err := creator.Create(ctx, &driver.CreateRequest{Filename: "host_device:" + dev, Size: c.size, Options: c.o})
		if (err == nil) != (c.text == "") || err != nil && err.Error() != c.text {
			t.Fatalf("create %d: %v, want %s", c.size, err, c.text)
		}
	}
	// Created means: the first sector is cleared, and nothing else.
	head := make([]byte, 516)
	s := open(t, dev, false, driver.Cache{})
	if _, err := s.ReadAt(ctx, head, 0); err != nil || !bytes.Equal(head, append(make([]byte, 512), "QFI\xfb"...)) {
		t.Fatalf("%q, %v", head[508:], err)
	}
	for name, cache := range caches() {
		t.Run(name, func(t *testing.T) {
			s := open(t, dev, true, cache)
			if tr, name := s.Traits(), s.(driver.Named).Filename(); !tr.FixedSize || tr.ZeroInit || name != dev || s.Size() != 1<<20 {
				t.Fatalf("%+v, %q, size %d", tr, name, s.Size())
			}
			m := testkit.NewModel(1 << 20)
			zero := make([]byte, 1<<20)
			if _, err := s.WriteAt(ctx, zero, 0); err != nil {
				t.Fatal(err)
			}
			exercise(t, s, m, 3, 100, false, 1)
			if cache.Direct {
				exercise(t, s, m, 4, 100, false, 512)
			}
			if _, err := s.WriteAt(ctx, head, 1<<20-100); !errors.Is(err, driver.ErrRange) {
				t.Error(err)
			}
			for _, c := range []struct {
				size int64
				opt  driver.ResizeOptions
				text string
			}{
				{1 << 20, driver.ResizeOptions{Exact: true}, ""},
				{1 << 19, driver.ResizeOptions{}, ""},
				{1 << 19, driver.ResizeOptions{Exact: true}, "cannot resize device files"},
				{2 << 20, driver.ResizeOptions{}, "cannot grow device files"},
				{1 << 20, driver.ResizeOptions{Prealloc: "full"}, "preallocation mode 'full' unsupported for this non-regular file"},
			} {
				if err := s.Resize(ctx, c.size, c.opt); (err == nil) != (c.text == "") || err != nil && err.Error() != c.text {
					t.Errorf("resize to %d: %v, want %s", c.size, err, c.text)
				}
			}
			if err := s.Discard(ctx, 0, 1<<19); err != nil && !errors.Is(err, driver.ErrUnsupported) {
				t.Error(err)
			}
			if err := s.Flush(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReadOnlyDevice(t *testing.T) {
	backing := filepath.Join(t.TempDir(), "backing")
	if err := os.WriteFile(backing, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	dev := testkit.LoopDevice(t, backing, "-r")
	_, err := tryOpen(file.NewHostDevice(), driver.Access{Write: true, Shared: driver.PermAll}, driver.Cache{}, opts.Dict{"filename": dev})
	if !errors.Is(err, syscall.EACCES) {
		t.Fatal(err)
	}
}

// TestFileDescriptor opens a file by the number of its descriptor.
func TestFileDescriptor(t *testing.T) {
	f, err := os.Open(mustCreate(t, filepath.Join(t.TempDir(), "x"), 4096))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s := open(t, "/dev/fd/"+strconv.Itoa(int(f.Fd())), false, driver.Cache{}); s.Size() != 4096 {
		t.Fatal(s.Size())
	}
}

// TestCreateBesideTheOriginal: the same length and disk usage for every mode.
func TestCreateBesideTheOriginal(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	dirs := map[string]string{"here": t.TempDir()}
	if os.Geteuid() == 0 {
		dirs["xfs"], dirs["btrfs"] = "", ""
	}
	for name, dir := range dirs {
		t.Run(name, func(t *testing.T) {
			if dir == "" {
				dir = testkit.Mount(t, name, "512M")
			}
			for _, size := range []int64{0, 1, 512, 1000, 4096, 5000, 1 << 20, 10<<20 + 7} {
				for _, o := range []string{"preallocation=off", "preallocation=falloc", "preallocation=full", "nocow=on", "extent_size_hint=64k", "extent_size_hint=0"} {
					ours, theirs := filepath.Join(dir, "ours"), filepath.Join(dir, "theirs")
					os.Remove(ours)
					os.Remove(theirs)
					d := opts.Dict{}
					if err := d.ParseList(o, ""); err != nil {
						t.Fatal(err)
					}
					if err := create(t, ours, size, d); err != nil {
						t.Fatal(err)
					}
					testkit.Run(t, "qemu-img", "create", "-q", "-f", "raw", "-o", o, theirs, strconv.FormatInt(size, 10))
					a, b := imageInfo(t, ours), imageInfo(t, theirs)
					if a != b {
						t.Errorf("%s, %d bytes: %+v, want %+v", o, size, a, b)
					}
				}
			}
		})
	}
}

type usage struct {
	size, virtual, allocated, hint int64
	flags                          string
}

// imageInfo is what we and the system say of a file.
func imageInfo(t *testing.T, path string) usage {
	s := open(t, path, false, driver.Cache{})
	defer s.Close(ctx)
	if err := syncFS(path); err != nil { // delayed allocation
		t.Fatal(err)
	}
	i, err := s.(driver.Describer).Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	used, err := driver.DiskUsage(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	u := usage{size: s.Size(), allocated: used, hint: i.Specific.Data.(*qapi.InfoSpecificFile).ExtentSizeHint}
	if out, _, code := testkit.Try(t, "lsattr", path); code == 0 {
		u.flags = strings.Fields(out)[0]
	}
	var theirs struct {
		VirtualSize int64 `json:"virtual-size"`
	}
	if err := json.Unmarshal([]byte(testkit.Run(t, "qemu-img", "info", "--output", "json", "-f", "raw", path)), &theirs); err != nil {
		t.Fatal(err)
	}
	u.virtual = theirs.VirtualSize
	return u
}

func syncFS(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
