package vhdx_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vhdx"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    opts.Dict
	}{
		{"dynamic", opts.Dict{"block_size": "1M"}},
		{"fixed", opts.Dict{"block_size": "1M", "subformat": "fixed"}},
		{"sectors of 4096", opts.Dict{"block_size": "1M", "logical_sector_size": "4096"}},
		{"absent blocks", opts.Dict{"block_state_zero": "off"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := drivertest.Harness{Driver: vhdx.New(), Options: c.o, Original: "vhdx", BackingFormat: "vhdx", Light: true}
			if c.name == "sectors of 4096" {
				h.Original = "" // it reads sectors of 512 bytes only
				const why = "parents have sectors of 512 bytes"
				h.Skip = map[string]string{"Backing": why, "ChangeBacking": why, "StaleMemory": why}
			}
			if c.name == "fixed" {
				h.Skip = map[string]string{"Backing": "a fixed disk has no parent"}
			}
			if !testkit.Long() {
				h.Size = 2<<20 + 64<<10 + 3*512
				if c.name == "absent blocks" {
					t.Skip("the long form runs it")
				}
			}
			if testkit.Race {
				if c.name != "dynamic" {
					t.Skip("runs without the race detector")
				}
				h.Skip = map[string]string{}
				for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged"} {
					h.Skip[name] = "runs without the race detector"
				}
			}
			if c.name != "dynamic" {
				const why = "another variant has run it"
				if h.Skip == nil {
					h.Skip = map[string]string{}
				}
				for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged", "Concurrent"} {
					h.Skip[name] = why
				}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: vhdx.New()})
}

func FuzzImage(f *testing.F) {
	drivertest.Fuzz(f, drivertest.Harness{Driver: vhdx.New(), Options: opts.Dict{"block_size": "1M"}})
}
