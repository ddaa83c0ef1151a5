package block

import (
	"errors"
	"testing"
)

func TestIOErrorText(t *testing.T) {
	for _, c := range []struct {
		err  IOError
		want string
	}{
		{IOError{"write", "a", 512, errors.New("no room")}, "write a at offset 512: no room"},
		{IOError{"flush", "a", -1, errors.New("no room")}, "flush a: no room"},
		{IOError{"write", "a", 512, errors.New("could not write 'a' at offset 512: no room")}, "could not write 'a' at offset 512: no room"},
		{IOError{"write", "a", 51, errors.New("could not write 'a' at offset 512: no room")}, "write a at offset 51: could not write 'a' at offset 512: no room"},
		{IOError{"read", "a", 512, errors.New("could not write 'a' at offset 512: no room")}, "read a at offset 512: could not write 'a' at offset 512: no room"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
