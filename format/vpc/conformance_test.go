package vpc_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vpc"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    opts.Dict
	}{{"exact", opts.Dict{"force_size": "on"}}, {"geometry", opts.Dict{}}, {"fixed", opts.Dict{"force_size": "on", "subformat": "fixed"}}} {
		if testkit.Race && c.name == "fixed" {
			continue // it has no tables that requests could meet in
		}
		t.Run(c.name, func(t *testing.T) {
			h := drivertest.Harness{Driver: vpc.New(), Options: c.o, Original: "vpc", Light: c.name != "exact" || !testkit.Long()}
			h.BackingFormat = "vpc"
			h.Skip = map[string]string{}
			if c.name != "exact" && !testkit.Long() {
				const why = "another variant has run it"
				for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged", "Concurrent"} {
					h.Skip[name] = why
				}
			}
			if c.name == "fixed" {
				h.Skip["Backing"] = "a fixed disk has no parent"
				h.Skip["Probe"] = "fixed disks are not recognised"
				h.Skip["Strict"] = "the footer does not end at a unit of such a device"
			}
			if c.name == "geometry" {
				testkit.NoRace(t, "only the size differs from exact")
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: vpc.New()})
}

func FuzzImage(f *testing.F) {
	drivertest.Fuzz(f, drivertest.Harness{Driver: vpc.New(), Options: opts.Dict{"force_size": "on"}})
}
