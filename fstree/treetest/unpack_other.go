//go:build !linux

package treetest

import (
	"testing"

	"github.com/cowl-disk/cowl/fstree"
)

// Unpack skips the test: it needs Linux.
func Unpack(t testing.TB, _ *fstree.Node, _ string) {
	t.Helper()
	t.Skip("needs Linux")
}
