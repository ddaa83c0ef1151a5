package qcow2

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// smallImages are seeds: a few KiB each.
func smallImages(t testing.TB) [][]byte {
	var out [][]byte
	for _, o := range []string{"", "compat=0.10", "refcount_bits=1", "refcount_bits=64", "preallocation=metadata",
		"preallocation=full,refcount_bits=8", "cluster_size=16k,extended_l2=on,preallocation=metadata", "compression_type=zstd,lazy_refcounts=on"} {
		d := opts.Dict{"cluster_size": "512"}
		if err := d.ParseList(o, ""); err != nil {
			t.Fatal(err)
		}
		f := &memFile{}
		if err := new(Driver).Create(context.Background(), &driver.CreateRequest{Size: 8 << 10, Options: d, File: f, Env: testEnv()}); err != nil {
			t.Fatal(err)
		}
		out = append(out, f.b)
	}
	return out
}

// FuzzCheck looks for panics, endless loops and memory without bound in open,
// map, check and repair.
func FuzzCheck(f *testing.F) {
	for _, b := range smallImages(f) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		file := newSparse()
		file.WriteAt(context.Background(), b, 0)
		exercise(file, &driver.Budget{MaxMemory: 256 << 20}, func() {})
	})
}
