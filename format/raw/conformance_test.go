package raw_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
)

var harness = drivertest.Harness{Driver: raw.New(), Original: "raw"}

func TestConformance(t *testing.T)      { drivertest.Run(t, harness) }
func BenchmarkConformance(b *testing.B) { drivertest.Benchmark(b, harness) }
