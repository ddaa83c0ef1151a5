package qcow2_test

import (
	"maps"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for i, c := range []struct {
		name string
		o    opts.Dict
		key  bool
	}{
		{name: "default"},
		{name: "small clusters", o: opts.Dict{"cluster_size": "512"}},
		{name: "extended L2", o: opts.Dict{"extended_l2": "on", "cluster_size": "32k"}},
		{name: "version 2", o: opts.Dict{"compat": "0.10", "cluster_size": "4k"}},
		{name: "lazy refcounts", o: opts.Dict{"lazy_refcounts": "on"}},
		{name: "refcount bits 1", o: opts.Dict{"refcount_bits": "1", "cluster_size": "4k"}},
		{name: "zstd", o: opts.Dict{"compression_type": "zstd", "refcount_bits": "64"}},
		{name: "metadata preallocated", o: opts.Dict{"preallocation": "metadata"}},
		{name: "aes", key: true, o: opts.Dict{"encrypt.format": "aes", "encrypt.key-secret": "s", "cluster_size": "4k"}},
		{name: "luks", key: true, o: opts.Dict{"encrypt.format": "luks", "encrypt.key-secret": "s", "encrypt.iter-time": "0"}},
	} {
		if !testkit.Sample(i, 4) || testkit.Race && c.name == "lazy refcounts" {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			h := drivertest.Harness{Driver: qcow2.New(), Options: c.o, Original: "qcow2", Light: i > 1 || !testkit.Long()}
			if c.o["preallocation"] != nil {
				h.Skip = map[string]string{"Backing": "preallocation excludes a backing file"}
			}
			if c.key {
				h.Skip = map[string]string{"Stream": "encrypted images are not streamed"}
				if c.name == "luks" {
					for _, slow := range []string{"CancelDuring", "FailForGood", "FailOnce"} {
						h.Skip[slow] = "an image takes long to open; aes has run it"
					}
				}
				h.Objects, h.Open = secrets{"s": "abc"}, opts.Dict{"encrypt.key-secret": "s"}
			}
			if testkit.Race && i > 0 {
				h.Skip = maps.Clone(h.Skip)
				if h.Skip == nil {
					h.Skip = map[string]string{}
				}
				for _, name := range []string{"RoundTrip", "Random", "Backing", "StaleMemory", "FailOnce"} {
					h.Skip[name] = "one caller: the default image has run it"
				}
			}
			drivertest.Run(t, h)
		})
	}
}

// secrets are secrets by id.
type secrets = driver.Secrets

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: qcow2.New()})
}
