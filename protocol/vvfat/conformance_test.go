package vvfat_test

import (
	"context"
	"testing"

	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/vvfat"
)

// TestConformance runs what the suite has for disks that exist already.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	fillFolder(t, testkit.Rand(5), dir, 40, 20<<10)
	n := open(t, opts.Dict{"dir": dir, "floppy": "on"}, false)
	content := make([]byte, n.Size())
	if _, err := n.ReadAt(context.Background(), content, 0); err != nil {
		t.Fatal(err)
	}
	finish(t, n)
	drivertest.RunFixture(t, drivertest.Fixture{Driver: vvfat.New(), Content: content, Serve: func(*testing.T, []byte) string { return "fat:floppy:" + dir }})
}
