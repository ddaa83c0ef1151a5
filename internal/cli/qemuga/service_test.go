package qemuga

import (
	"slices"
	"testing"
)

// TestServiceArgs has a service start with all options that it was installed with.
func TestServiceArgs(t *testing.T) {
	for _, c := range []struct{ args, want []string }{
		{[]string{"-s", "install"}, nil},
		{[]string{"-m", "isa-serial", "-vp", "COM2", "--service=install", "-l", `C:\a b\log`}, []string{"--method=isa-serial", "--verbose", "--path=COM2", `--logfile=C:\a b\log`}},
		{[]string{"-drFhook", "-F", "-b", "guest-exec", "--preset", "safe", "-t", "", "-sinstall"},
			[]string{"--fsfreeze-hook=hook", "--fsfreeze-hook", "--block-rpcs=guest-exec", "--preset=safe", "--statedir="}},
	} {
		want := append([]string{"--daemonize", "--retry-path"}, c.want...)
		if got := (&invocation{}).serviceArgs(c.args); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", c.args, got, want)
		}
	}
}
