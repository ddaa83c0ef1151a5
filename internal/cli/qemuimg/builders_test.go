package qemuimg

import (
	"context"
	"testing"
)

// TestBuilderNames: a command is found by the name that its declaration has.
func TestBuilderNames(t *testing.T) {
	p := &Program{Name: "cowl"}
	seen := map[string]bool{}
	for _, b := range p.builders() {
		if got := p.newCall(context.Background()).declare(b.build).Name; got != b.name || seen[got] {
			t.Errorf("%q declares %q", b.name, got)
		}
		seen[b.name] = true
	}
}
