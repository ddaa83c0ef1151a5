package qcow_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/qcow"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		o    opts.Dict
	}{{"plain", opts.Dict{}}, {"aes", opts.Dict{"encrypt.format": "aes", "encrypt.key-secret": "s"}}} {
		t.Run(c.name, func(t *testing.T) {
			h := drivertest.Harness{Driver: qcow.New(), Options: c.o, Original: "qcow", Light: c.name != "plain" || !testkit.Long(), Skip: map[string]string{}}
			if c.name == "aes" {
				h.Objects, h.Open = driver.Secrets{"s": "abc"}, opts.Dict{"encrypt.key-secret": "s"}
				if !testkit.Long() {
					const why = "another variant has run it"
					for _, name := range []string{"FailOnce", "FailForGood", "CancelDuring", "Damaged", "Concurrent"} {
						h.Skip[name] = why
					}
				}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) {
	drivertest.Benchmark(b, drivertest.Harness{Driver: qcow.New()})
}

func FuzzImage(f *testing.F) { drivertest.Fuzz(f, drivertest.Harness{Driver: qcow.New()}) }
