package version

import (
	"runtime/debug"
	"testing"
)

func TestVersionOf(t *testing.T) {
	for module, want := range map[string]string{"": "devel", "(devel)": "devel", "v0.2.0": "0.2.0", "v0.2.1-0.20260101000000-abcdefabcdef+dirty": "0.2.1-0.20260101000000-abcdefabcdef+dirty"} {
		if got := versionOf(&debug.BuildInfo{Main: debug.Module{Version: module}}); got != want {
			t.Errorf("%q: %q, want %q", module, got, want)
		}
	}
}
