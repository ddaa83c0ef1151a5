package vdi_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/vdi"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    opts.Dict
	}{{"dynamic", opts.Dict{}}, {"static", opts.Dict{"static": "on"}}} {
		if testkit.Race && c.name == "static" {
			continue // its table does not change
		}
		t.Run(c.name, func(t *testing.T) {
			const none = "the parent of a new image cannot be named"
			h := drivertest.Harness{Skip: map[string]string{"Backing": none, "ChangeBacking": none}, Driver: vdi.New(), Size: 3<<20 + 3*512, Options: c.o, Original: "vdi", Light: c.name == "static" || !testkit.Long()}
			if c.name == "static" && !testkit.Long() {
				const why = "all blocks have room: the dynamic image has run it"
				for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged", "Concurrent"} {
					h.Skip[name] = why
				}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: vdi.New()})
}
