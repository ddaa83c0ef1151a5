package ops_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/qapi"
)

func registry() *block.Registry { return block.NewRegistry(drivers.All()...) }

func create(t *testing.T, job ops.CreateJob) error {
	t.Helper()
	job.Registry, job.Gate = registry(), driver.AllowAll
	return ops.Create(t.Context(), job)
}

func open(t *testing.T, name, format string, write bool) *block.Image {
	t.Helper()
	img, err := block.Open(t.Context(), registry(), block.Source{Filename: name, Format: format},
		block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := img.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return img
}

func ptr(s string) *string { return &s }

func TestCreateRules(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.qcow2")
	if err := create(t, ops.CreateJob{Filename: base, Format: "qcow2", Size: 3 << 20}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, want string
		job        ops.CreateJob
	}{
		{"no size", "image creation needs a size parameter", ops.CreateJob{Format: "qcow2", Size: -1}},
		{"two sizes", "the image size must be specified only once", ops.CreateJob{Format: "qcow2", Size: 1, Options: opts.Dict{"size": "1M"}}},
		{"unknown format", "unknown file format 'x'", ops.CreateJob{Format: "x", Size: 1}},
		{"cannot create", "format driver 'null-co' does not support image creation", ops.CreateJob{Format: "null-co", Size: 1}},
		{"unknown option", "invalid parameter 'x'", ops.CreateJob{Format: "qcow2", Size: 1, Options: opts.Dict{"x": "1"}}},
		{"backing of raw", "backing file not supported for file format 'raw'", ops.CreateJob{Format: "raw", Size: 1, Backing: ptr("base.qcow2")}},
		{"no backing format", "backing file specified without backing format: it was detected as qcow2", ops.CreateJob{Format: "qcow2", Size: -1, Backing: ptr("base.qcow2")}},
		{"empty backing", "expected backing file name, got empty string", ops.CreateJob{Format: "qcow2", Size: -1, Backing: ptr("")}},
		{"unsafe without size", "image creation needs a size parameter", ops.CreateJob{Format: "qcow2", Size: -1, Unsafe: true, Backing: ptr("nowhere"), BackingFormat: ptr("raw")}},
		{"unsafe", "", ops.CreateJob{Format: "qcow2", Size: 1 << 20, Unsafe: true, Backing: ptr("nowhere"), BackingFormat: ptr("raw")}},
		{"size of the backing file", "", ops.CreateJob{Format: "qcow2", Size: -1, Backing: ptr("base.qcow2"), BackingFormat: ptr("qcow2")}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.job.Filename = filepath.Join(dir, "new")
			announced := false
			tt.job.Announce = func(ops.Creating) { announced = true }
			err := create(t, tt.job)
			if tt.want == "" {
				if err != nil || !announced {
					t.Errorf("error %v, announced %t", err, announced)
				}
				return
			}
			if err == nil || err.Error() != tt.want {
				t.Errorf("error %v, want %s", err, tt.want)
			}
			if announced {
				t.Error("announced although it was refused")
			}
		})
	}
	if got := open(t, filepath.Join(dir, "new"), "qcow2", false).Size(); got != 3<<20 {
		t.Errorf("size %d, want that of the backing file", got)
	}
	var missing *ops.BackingError
	err := create(t, ops.CreateJob{Filename: filepath.Join(dir, "other"), Format: "qcow2", Size: 1, Backing: ptr("nowhere"), BackingFormat: ptr("raw")})
	if !errors.As(err, &missing) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "other")); err == nil {
		t.Error("the refused image exists")
	}
}

func TestMapAndResize(t *testing.T) {
	ctx, name := t.Context(), filepath.Join(t.TempDir(), "disk.qcow2")
	if err := create(t, ops.CreateJob{Filename: name, Format: "qcow2", Size: 1 << 20}); err != nil {
		t.Fatal(err)
	}
	img := open(t, name, "qcow2", true)
	if _, err := img.WriteAt(ctx, []byte(strings.Repeat("x", 200000)), 100000); err != nil {
		t.Fatal(err)
	}
	collect := func(start, n int64) (list []qapi.MapEntry) {
		if err := ops.Map(ctx, img, start, n, func(e qapi.MapEntry) error {
			list = append(list, e)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return list
	}
	end := int64(0)
	for _, e := range collect(0, -1) {
		if e.Start != end || e.Length <= 0 || e.Data == e.Zero {
			t.Errorf("entry %+v after %d", e, end)
		}
		end += e.Length
	}
	if end != img.Size() {
		t.Errorf("the map ends at %d", end)
	}
	if l := collect(5<<20, -1); len(l) != 1 || l[0].Length != 0 || l[0].Start != 5<<20 {
		t.Errorf("beyond the end: %+v", l)
	}
	if l := collect(70000, 10); len(l) != 1 || l[0].Length != 10 || !l[0].Data {
		t.Errorf("in the middle: %+v", l)
	}
	stop := errors.New("stop")
	if err := ops.Map(ctx, img, 0, -1, func(qapi.MapEntry) error { return stop }); err != stop {
		t.Errorf("error %v", err)
	}

	for _, job := range []ops.ResizeJob{{Size: 0}, {Size: -5, Shrink: true}, {Size: 512 << 10}, {Size: 512 << 10, Shrink: true, Prealloc: driver.PreallocFull}} {
		job.Image = img
		if err := ops.Resize(ctx, job); err == nil {
			t.Errorf("resized to %d", job.Size)
		}
	}
	if err := ops.Resize(ctx, ops.ResizeJob{Image: img, Size: 512 << 10}); !errors.Is(err, ops.ErrShrink) {
		t.Errorf("error %v", err)
	}
	for _, job := range []ops.ResizeJob{{Size: 512 << 10, Shrink: true}, {Size: 4 << 20}} {
		job.Image = img
		if err := ops.Resize(ctx, job); err != nil || img.Size() != job.Size {
			t.Errorf("size %d, error %v", img.Size(), err)
		}
	}
	got, err := ops.Check(ctx, ops.CheckJob{Image: img})
	if err != nil || got.Corruptions != nil || got.Leaks != nil || got.CheckErrors != 0 {
		t.Errorf("check: %+v, %v", got, err)
	}
}

func TestInfoChainLoop(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	for _, p := range [][2]string{{a, "b"}, {b, "a"}} {
		if err := create(t, ops.CreateJob{Filename: p[0], Format: "qcow2", Size: 1 << 20, Unsafe: true, Backing: ptr(p[1]), BackingFormat: ptr("qcow2")}); err != nil {
			t.Fatal(err)
		}
	}
	_, err := ops.InfoChain(t.Context(), block.Source{Filename: a}, ops.InfoOptions{}, func(ctx context.Context, src block.Source) (*block.Image, error) {
		return block.Open(ctx, registry(), src, block.OpenOptions{Chain: block.ChainUse{NoBacking: true}, Use: block.Use{NoIO: true}, Gate: driver.AllowAll})
	})
	if err == nil || !strings.Contains(err.Error(), "creates an infinite loop") {
		t.Errorf("error %v", err)
	}
}

func TestMeasureUnsupported(t *testing.T) {
	drv := registry().Lookup("null-co")
	if _, err := ops.Measure(t.Context(), ops.MeasureRequest{Driver: drv, Size: 1}); !errors.Is(err, driver.ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}
