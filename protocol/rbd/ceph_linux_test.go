package rbd_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ceph"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/rbd"
)

// shared is the cluster of all tests of this package.
type shared struct {
	once sync.Once
	dir  string
	c    *ceph.Cluster
	err  error
	next atomic.Int32
}

var all shared

func TestMain(m *testing.M) {
	code := m.Run()
	if all.c != nil {
		all.c.Stop()
	}
	os.RemoveAll(all.dir)
	os.Exit(code)
}

// cluster starts the cluster, and builds the program that reaches it.
func cluster(t testing.TB) *ceph.Cluster {
	t.Helper()
	ceph.Need(t)
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("there is no second program for this system")
	}
	all.once.Do(func() {
		if all.dir, all.err = os.MkdirTemp("", "ceph"); all.err != nil {
			return
		}
		program := filepath.Join(all.dir, "cowl-native")
		if all.err = testkit.Build(program, "./cmd/cowl-native"); all.err != nil {
			return
		}
		if all.err = os.Setenv(native.Variable, program); all.err != nil {
			return
		}
		all.c, all.err = ceph.Start(all.dir)
	})
	if all.err != nil {
		t.Fatal(all.err)
	}
	return all.c
}

// name is a name that no image has.
func name() string { return fmt.Sprintf("image%d", all.next.Add(1)) }

func open(t testing.TB, filename string, write bool, more opts.Dict) (driver.Storage, error) {
	t.Helper()
	drv := rbd.New()
	d, err := drv.(driver.FilenameParser).ParseFilename(filename)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range more {
		d[k] = v
	}
	env := &driver.Env{Objects: driver.Secrets{"s": "passphrase", "wrong": "other"}, Warn: func(s string) { t.Log(s) }}
	n, err := drv.Open(t.Context(), &driver.OpenRequest{Options: d, Access: driver.Access{Write: write}, Env: env})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = n.Close(context.Background()) })
	return n.(driver.Storage), nil
}

func create(t testing.TB, filename string, size int64, o opts.Dict) error {
	return rbd.New().(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: filename, Size: size, Options: o,
		Env: &driver.Env{Objects: driver.Secrets{"s": "passphrase"}}})
}

// TestConformance runs the suite.
func TestConformance(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	c := cluster(t)
	drivertest.Run(t, drivertest.Harness{Driver: rbd.New(), Light: true, Options: opts.Dict{"cluster_size": "64k"}, NewName: func(testing.TB) string { return c.Name(name()) }})
}

// TestDisk writes, resizes and reads an image, and maps it.
func TestDisk(t *testing.T) {
	ctx := t.Context()
	c := cluster(t)
	file := c.Name(name())
	const object = 64 << 10
	if err := create(t, file, 1<<20, opts.Dict{"cluster_size": fmt.Sprint(object)}); err != nil {
		t.Fatal(err)
	}
	if err := create(t, file, 1<<20, nil); !errors.Is(err, driver.ErrExists) {
		t.Error(err)
	}
	n, err := open(t, file, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]byte, 1<<20+100)
	testkit.Fill(testkit.Rand(1), want[3*object+5:9*object-7])
	testkit.Fill(testkit.Rand(2), want[1<<20:])
	for _, r := range [][2]int{{3*object + 5, 9*object - 7}, {1 << 20, len(want)}} {
		if _, err := n.WriteAt(ctx, want[r[0]:r[1]], int64(r[0])); err != nil {
			t.Fatal(err)
		}
	}
	if err := n.Flush(ctx); err != nil {
		t.Fatal(err)
	}
	other, err := open(t, file, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := other.ReadAt(ctx, got, 0); err != nil || string(got) != string(want) {
		t.Errorf("other data, %v", err)
	}
	for off, x := range map[int64]driver.Extent{0: {Kind: driver.ExtentZero, Length: 3 * object}, 100: {Kind: driver.ExtentZero, Length: 3*object - 100},
		3*object + 1: {Kind: driver.ExtentData, Length: 6*object - 1}, 9 * object: {Kind: driver.ExtentZero, Length: 7 * object}, 1 << 20: {Kind: driver.ExtentData, Length: 100}} {
		if e, err := other.Map(ctx, off, 1<<40); err != nil || e.Kind != x.Kind || e.Length != x.Length || e.HostOffset != off {
			t.Errorf("%d: %+v, %v, not %+v", off, e, err, x)
		}
	}
	if _, err := other.WriteAt(ctx, want[:1], 0); !errors.Is(err, driver.ErrReadOnly) {
		t.Error(err)
	}
	if _, err := open(t, c.Name("nope"), false, nil); !errors.Is(err, driver.ErrNotExist) || err.Error() != "error reading header from nope: no such file or directory" {
		t.Error(err)
	}
	// It is given up after a moment, which is too short on a busy machine.
	err = driver.ErrTimeout
	for errors.Is(err, driver.ErrTimeout) {
		err = rbd.New().(driver.Deleter).Delete(ctx, c.Name("nope"))
	}
	if !errors.Is(err, driver.ErrNotExist) {
		t.Error(err)
	}
}

// TestSnapshots takes snapshots and goes back to them.
func TestSnapshots(t *testing.T) {
	ctx := t.Context()
	c := cluster(t)
	image := name()
	file := c.Name(image)
	if err := create(t, file, 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	n, err := open(t, file, true, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := n.(driver.Snapshotter)
	write := func(b byte) {
		if _, err := n.WriteAt(ctx, []byte{b}, 1000); err != nil {
			t.Fatal(err)
		}
	}
	read := func(n driver.Storage) byte {
		p := make([]byte, 1)
		if _, err := n.ReadAt(ctx, p, 1000); err != nil {
			t.Fatal(err)
		}
		return p[0]
	}
	write(1)
	if id, err := s.CreateSnapshot(ctx, driver.SnapshotRequest{Name: "a b"}); id != "a b" || err != nil {
		t.Errorf("%s, %v", id, err)
	}
	if _, err := s.CreateSnapshot(ctx, driver.SnapshotRequest{Name: "a b"}); !errors.Is(err, driver.ErrExists) {
		t.Error(err)
	}
	if _, err := s.CreateSnapshot(ctx, driver.SnapshotRequest{}); !errors.Is(err, driver.ErrInvalid) {
		t.Error(err)
	}
	write(2)
	if err := n.(driver.Resizer).Resize(ctx, 2<<20, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Snapshots(ctx); err != nil || len(list) != 1 || list[0].Name != "a b" || list[0].ID != "a b" || list[0].VMStateSize != 1<<20 {
		t.Errorf("%+v, %v", list, err)
	}
	old, err := open(t, c.Name(image+"@a b"), false, nil)
	if err != nil {
		t.Fatal(err)
	}
	if old.Size() != 1<<20 || read(old) != 1 || read(n) != 2 {
		t.Errorf("%d bytes, %d, %d", old.Size(), read(old), read(n))
	}
	if err := old.Close(ctx); err != nil {
		t.Error(err)
	}
	if err := s.ApplySnapshot(ctx, "a b"); err != nil || n.Size() != 1<<20 || read(n) != 1 {
		t.Errorf("%v, %d bytes, %d", err, n.Size(), read(n))
	}
	if err := s.ApplySnapshot(ctx, "c"); !errors.Is(err, driver.ErrNoSnapshot) {
		t.Error(err)
	}
	if err := s.DeleteSnapshot(ctx, "1", "a b"); !errors.Is(err, driver.ErrNoSnapshot) {
		t.Error(err)
	}
	if err := s.DeleteSnapshot(ctx, "a b", "a b"); err != nil {
		t.Error(err)
	}
	if list, err := s.Snapshots(ctx); err != nil || len(list) != 0 {
		t.Errorf("%+v, %v", list, err)
	}
}

// TestEncryption makes and opens encrypted images.
func TestEncryption(t *testing.T) {
	if testkit.Count(0) == 0 {
		t.Skip("COWL_COUNT is not set: the library takes half a minute to derive keys")
	}
	ctx := t.Context()
	c := cluster(t)
	file := c.Name(name())
	if err := create(t, file, 32<<20, opts.Dict{"encrypt.format": "luks2", "encrypt.key-secret": "s", "encrypt.cipher-alg": "aes-128"}); err != nil {
		t.Fatal(err)
	}
	key := func(id string) opts.Dict { return opts.Dict{"encrypt.format": "luks2", "encrypt.key-secret": id} }
	if _, err := open(t, file, false, key("wrong")); !errors.Is(err, syscall.EPERM) {
		t.Error(err)
	}
	n, err := open(t, file, true, key("s"))
	if err != nil {
		t.Fatal(err)
	}
	want := []byte("nobody else can read that")
	if _, err := n.WriteAt(ctx, want, 500); err != nil {
		t.Fatal(err)
	}
	if n.Size() != 32<<20 {
		t.Errorf("%d bytes", n.Size())
	}
	// The library tells of objects elsewhere than where their bytes are read.
	if e, err := n.Map(ctx, 0, 32<<20); err != nil || e.Kind != driver.ExtentData || e.Length != 32<<20 {
		t.Errorf("%+v, %v", e, err)
	}
	if err := n.Close(ctx); err != nil {
		t.Fatal(err)
	}
	if n, err = open(t, file, false, key("s")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := n.ReadAt(ctx, got, 500); err != nil || string(got) != string(want) {
		t.Errorf("%q, %v", got, err)
	}
	raw, err := open(t, file, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	info, err := raw.(driver.Describer).Info(ctx)
	if err != nil || fmt.Sprint(info.Specific.Data) != "{luks2}" || raw.Size() <= 32<<20 {
		t.Errorf("%+v, %v", info.Specific, err)
	}
}

// TestStopped stops the store while a disk is written: a request with a time-out fails,
// one without waits until the store goes on, and one that is cancelled ends.
func TestStopped(t *testing.T) {
	c := cluster(t)
	file := c.Name(name(), "rbd_cache=false")
	if err := create(t, file, 1<<20, nil); err != nil {
		t.Fatal(err)
	}
	waiting, err := open(t, file, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	bounded, err := open(t, file, false, opts.Dict{"timeout": "1"})
	if err != nil {
		t.Fatal(err)
	}
	c.Pause(t)
	done := make(chan error)
	go func() {
		_, err := waiting.ReadAt(t.Context(), make([]byte, 10), 0)
		done <- err
	}()
	if _, err := bounded.ReadAt(t.Context(), make([]byte, 10), 0); !errors.Is(err, driver.ErrTimeout) {
		t.Error(err)
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(t.Context())
	cancelled := make(chan error)
	go func() {
		_, err := bounded.Map(ctx, 0, 1)
		cancelled <- err
	}()
	cancel()
	if err := <-cancelled; err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := bounded.Close(t.Context()); err != nil || time.Since(began) > time.Minute {
		t.Error(err)
	}
	c.Continue(t)
	if err := <-done; err != nil {
		t.Error(err)
	}
}
