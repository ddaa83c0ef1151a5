package driver_test

import (
	"slices"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
)

type connection struct {
	name   string
	closed *[]string
}

func (c connection) Close() error {
	*c.closed = append(*c.closed, c.name)
	return nil
}

// TestConnections: a connection is given to those alone that name its key, and what is too
// much, or is left at the end, is closed.
func TestConnections(t *testing.T) {
	var closed []string
	var none *driver.Connections
	none.Keep("key", connection{"none", &closed})
	if got := none.Take("key"); got != nil || !slices.Equal(closed, []string{"none"}) {
		t.Errorf("%v is kept by nothing, %v were closed", got, closed)
	}
	closed = nil
	c := &driver.Connections{}
	type other string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		c.Keep("key "+name[:1], connection{name, &closed})
	}
	if !slices.Equal(closed, []string{"a"}) {
		t.Errorf("%v were closed, not the oldest", closed)
	}
	for key, want := range map[any]string{"key a": "", "key x": "", other("key b"): "", "key c": "c"} {
		got, _ := c.Take(key).(connection)
		if got.name != want {
			t.Errorf("%T %v: %q, not %q", key, key, got.name, want)
		}
	}
	if got := c.Take("key c"); got != nil {
		t.Error("a connection was given twice")
	}
	c.Keep("key b", connection{"newer", &closed})
	if got, _ := c.Take("key b").(connection); got.name != "newer" {
		t.Errorf("%q, not the one that was kept last", got.name)
	}
	closed = nil
	c.Close()
	c.Keep("key", connection{"late", &closed})
	if !slices.Equal(closed, []string{"b", "d", "e", "late"}) || c.Take("key") != nil {
		t.Errorf("at the end %v were closed", closed)
	}
}
