package multicall

import "testing"

func TestReads(t *testing.T) {
	for _, c := range []struct {
		args []string
		want bool
	}{
		{[]string{"/usr/bin/qemu-img", "info", "a.qcow2"}, true},
		{[]string{"cowl", "info"}, true},
		{[]string{"cowl", "create", "info"}, false},
		{[]string{"qemu-img", "snapshot", "-l", "info"}, false},
		{[]string{"qemu-io", "info"}, false},
		{[]string{"qemu-nbd", "info"}, false},
		{[]string{"cowl"}, false},
		{nil, false},
	} {
		if got := reads(c.args); got != c.want {
			t.Errorf("%q: %v", c.args, got)
		}
	}
}
