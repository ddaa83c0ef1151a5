package ops

import (
	"context"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/opts"
)

// TestWorkers: where bytes are only moved into a file a few workers do, and twice as many as processors where they decode; what
// decrypts has as many as there are. To a target on another machine several writes are under way, whatever the number of processors.
func TestWorkers(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	reg := block.NewRegistry(drivers.All()...)
	const linux = runtime.GOOS == "linux" // not all systems have direct I/O
	dir := t.TempDir()
	secrets := driver.Secrets{"key": "secret"}
	create := func(name, format string, o opts.Dict) *block.Image {
		file := filepath.Join(dir, name)
		err := block.Create(t.Context(), reg, block.CreateRequest{Filename: file, Format: format, Size: 1 << 20, Options: o, Objects: secrets, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		source := block.Source{Filename: file, Format: format}
		if format == "luks" {
			source.Options = opts.Dict{"key-secret": "key"}
		}
		img, err := block.Open(t.Context(), reg, source, block.OpenOptions{Write: true, Objects: secrets, Gate: driver.AllowAll})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { img.Close(context.Background()) })
		return img
	}
	raw, plain, packed := create("raw", "raw", nil), create("plain", "qcow2", nil), create("packed", "qcow2", nil)
	secret := create("secret", "luks", opts.Dict{"key-secret": "key", "iter-time": "10"})
	if _, err := Convert(t.Context(), ConvertJob{Sources: []*block.Image{raw}, Target: plain}); err != nil {
		t.Fatal(err)
	}
	if _, err := raw.WriteAt(t.Context(), make([]byte, 1<<20), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Convert(t.Context(), ConvertJob{Sources: []*block.Image{raw}, Target: packed, Compress: true}); err != nil {
		t.Fatal(err)
	}
	const far = "mem:far" // no file
	if err := block.Create(t.Context(), reg, block.CreateRequest{Filename: far, Format: "raw", Size: 1 << 20, Gate: driver.AllowAll}); err != nil {
		t.Fatal(err)
	}
	elsewhere, err := block.Open(t.Context(), reg, block.Source{Filename: far, Format: "raw"}, block.OpenOptions{Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer elsewhere.Close(context.Background())
	direct, err := block.Open(t.Context(), reg, block.Source{Filename: filepath.Join(dir, "plain"), Format: "qcow2"},
		block.OpenOptions{Cache: driver.Cache{Direct: linux}, Sharing: block.Sharing{Force: true}, Gate: driver.AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close(context.Background())
	above := create("above", "qcow2", opts.Dict{"backing_file": far, "backing_fmt": "raw"})
	for _, x := range []struct {
		what       string
		from, to   *block.Image
		remote     bool
		asked      int
		processors map[int]int // and the workers that are wanted
	}{
		{"raw to qcow2", raw, plain, false, 0, map[int]int{1: 2, 3: 3, 16: 4}},
		{"qcow2 to raw", plain, raw, false, 0, map[int]int{1: 2, 3: 3, 16: 4}},
		{"qcow2 to raw, with seven", plain, raw, false, 7, map[int]int{1: 7, 16: 7}},
		{"compressed to raw", packed, raw, false, 0, map[int]int{1: 4, 3: 6, 16: 8}},
		{"luks to raw", secret, raw, false, 0, map[int]int{1: 2, 3: 3, 16: 8}},
		{"raw to luks", raw, secret, false, 0, map[int]int{1: 2, 3: 3, 16: 8}},
		{"from elsewhere to raw", elsewhere, raw, false, 0, map[int]int{1: 2, 3: 3, 16: 8}},
		{"overlay of a disk elsewhere to raw", above, raw, false, 0, map[int]int{1: 2, 3: 3, 16: 8}},
		{"qcow2 to raw by direct I/O", direct, raw, false, 0, map[int]int{1: 2, 3: 3, 16: 8}},
		{"to another machine", raw, plain, true, 0, map[int]int{1: 8, 16: 8}},
	} {
		if x.from == direct && !linux {
			continue
		}
		c := newConverter(t.Context(), ConvertJob{Sources: []*block.Image{x.from}, Target: x.to, Workers: x.asked}, newConcat([]*block.Image{x.from}))
		if x.remote {
			c.remote = true
		}
		for _, n := range []int{1, 3, 16} {
			want, ok := x.processors[n]
			if runtime.GOMAXPROCS(n); ok && c.workers() != want {
				t.Errorf("%s, %d processors: %d workers, want %d", x.what, n, c.workers(), want)
			}
		}
	}
}
