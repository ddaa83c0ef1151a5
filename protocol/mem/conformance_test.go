package mem_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func harness() drivertest.Harness {
	var names atomic.Int64
	return drivertest.Harness{Driver: mem.New(), NewName: func(testing.TB) string { return fmt.Sprintf("mem:x%d", names.Add(1)) }}
}

func TestConformance(t *testing.T)      { drivertest.Run(t, harness()) }
func BenchmarkConformance(b *testing.B) { drivertest.Benchmark(b, harness()) }
