package qcow2_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for i, c := range []struct {
		name string
		o    opts.Dict
	}{
		{"default", nil},
		{"small clusters", opts.Dict{"cluster_size": "512"}},
		{"extended L2", opts.Dict{"extended_l2": "on", "cluster_size": "32k"}},
		{"version 2", opts.Dict{"compat": "0.10", "cluster_size": "4k"}},
		{"lazy refcounts", opts.Dict{"lazy_refcounts": "on"}},
		{"refcount bits 1", opts.Dict{"refcount_bits": "1", "cluster_size": "4k"}},
		{"zstd", opts.Dict{"compression_type": "zstd", "refcount_bits": "64"}},
		{"metadata preallocated", opts.Dict{"preallocation": "metadata"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := drivertest.Harness{Driver: qcow2.New(), Options: c.o, Original: "qcow2", Light: i > 1}
			if c.o["preallocation"] != nil {
				h.Skip = map[string]string{"Backing": "preallocation excludes a backing file"}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: qcow2.New()})
}
