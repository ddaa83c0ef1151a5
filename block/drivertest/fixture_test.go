package drivertest_test

import (
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
)

func TestRunFixture(t *testing.T) {
	content := make([]byte, 1<<20)
	testkit.FillDisk(testkit.Rand(1), content)
	drivertest.RunFixture(t, drivertest.Fixture{Driver: raw.New(), Image: content[:1<<20-100], Content: append(content[:1<<20-100:1<<20-100], make([]byte, 100)...)})
}
