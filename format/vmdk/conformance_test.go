package vmdk

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for i, c := range []struct {
		name string
		o    opts.Dict
		skip map[string]string
	}{
		{name: "monolithicSparse"},
		{name: "zeroed grain", o: opts.Dict{"zeroed_grain": "on"}},
	} {
		if testkit.Race {
			// One goroutine that repeats itself for every write: minutes with the detector.
			c.skip = map[string]string{"FailOnce": "runs without the race detector", "FailForGood": "runs without the race detector"}
			if i > 0 {
				continue
			}
		}
		t.Run(c.name, func(t *testing.T) {
			drivertest.Run(t, drivertest.Harness{Driver: New(), Options: c.o, Original: "vmdk", BackingFormat: "vmdk", Light: i > 0 || !testkit.Long(), Skip: c.skip})
		})
	}
}
