package snaptable

import (
	"testing"

	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

func TestNextID(t *testing.T) {
	for _, c := range []struct {
		ids  []string
		want string
	}{
		{nil, "1"},
		{[]string{"1", "3"}, "4"},
		{[]string{"7", "vm", " 12 x", "+13th"}, "14"},
		{[]string{"99999999999999999999", "2"}, "3"},
		{[]string{"18446744073709551615"}, "0"},
		{[]string{"18446744073709551615", "0"}, "1"},
	} {
		var list []ondisk.Snapshot
		for _, id := range c.ids {
			list = append(list, ondisk.Snapshot{ID: id})
		}
		if got := NextID(list); got != c.want {
			t.Errorf("after %q: %s, want %s", c.ids, got, c.want)
		}
	}
}
