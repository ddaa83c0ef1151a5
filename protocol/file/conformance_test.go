package file_test

import (
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/protocol/file"
)

var harness = drivertest.Harness{
	Driver:  file.New(),
	NewName: func(t testing.TB) string { return filepath.Join(t.TempDir(), "x") },
}

func TestConformance(t *testing.T)      { drivertest.Run(t, harness) }
func BenchmarkConformance(b *testing.B) { drivertest.Benchmark(b, harness) }
