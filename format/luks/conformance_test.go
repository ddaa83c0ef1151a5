package luks_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/luks"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// secrets are the objects of tests.
type secrets = driver.Secrets

var known = secrets{"s": "correct horse", "t": "battery staple", "u": "nobody's", "binary": "\xff\xfe", "nul": "a\x00b"}

func harness(o opts.Dict, light bool) drivertest.Harness {
	o["key-secret"], o["iter-time"] = "s", "0"
	return drivertest.Harness{Driver: luks.New(), Options: o, Open: opts.Dict{"key-secret": "s"}, Objects: known, Garbage: true, Light: light}
}

func TestConformance(t *testing.T) {
	// The first has small key slots, which are opened many times.
	for i, o := range []opts.Dict{{"cipher-alg": "aes-128", "cipher-mode": "cbc", "ivgen-alg": "essiv"}, {}, {"version": "2", "pbkdf": "pbkdf2", "sector-size": "4k"}} {
		if testkit.Race && i == 1 {
			continue // another cipher, and nothing else that goroutines share
		}
		t.Run([]string{"cbc", "xts", "version 2"}[i], func(t *testing.T) {
			h := harness(o, i > 0)
			if i > 0 || testkit.Race {
				const why = "the format has no state that it could make a difference to"
				h.Skip = map[string]string{"FailOnce": why, "FailForGood": why, "CancelDuring": why, "Damaged": why}
			}
			drivertest.Run(t, h)
		})
	}
}

func BenchmarkConformance(b *testing.B) { drivertest.Benchmark(b, harness(opts.Dict{}, false)) }
