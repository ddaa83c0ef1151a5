package parallels_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    opts.Dict
	}{{"small", opts.Dict{"cluster_size": "64k"}}, {"default", opts.Dict{}}} {
		t.Run(c.name, func(t *testing.T) {
			const none = "no image names a backing file"
			h := drivertest.Harness{Driver: parallels.New(), Options: c.o, Original: "parallels", InUse: true, Light: c.name != "small" || !testkit.Long(),
				Skip: map[string]string{"Backing": none, "ChangeBacking": none}}
			if c.name != "small" && !testkit.Long() {
				const why = "an image with small clusters has run it"
				for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged"} {
					h.Skip[name] = why
				}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: parallels.New()})
}

func FuzzImage(f *testing.F) {
	drivertest.Fuzz(f, drivertest.Harness{Driver: parallels.New(), Options: opts.Dict{"cluster_size": "4096"}})
}
