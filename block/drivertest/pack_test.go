package drivertest

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/protocol/mem"
)

// contents returns all bytes of a disk.
func contents(t *testing.T, d *mem.Disk) []byte {
	t.Helper()
	b := make([]byte, d.Size())
	if _, err := d.ReadAt(context.Background(), b, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	return b
}

// TestPackDisk: a disk without its zeroes unpacks to itself, its length included, and the packed form has no zeroes to speak of.
func TestPackDisk(t *testing.T) {
	for _, size := range []int{0, 1, 512, 513, 100 << 10, 8<<20 + 100} {
		want := make([]byte, size)
		for _, off := range []int{0, 511, 512, 1024, 70000, 8 << 20} {
			if off < size {
				want[off] = byte(off>>8) | 1
			}
		}
		d := mem.NewDisk(0)
		if _, err := d.WriteAt(context.Background(), want, 0); err != nil {
			t.Fatal(err)
		}
		packed := pack(t, d)
		if len(packed) > 2048 {
			t.Errorf("%d bytes are %d packed", size, len(packed))
		}
		if got := contents(t, unpack(t, packed)); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: %d came back, or others", size, len(got))
		}
	}
}

// TestUnpackAnything: pieces may lie anywhere, be empty, overlap, and end early.
func TestUnpackAnything(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"", ""},
		{"\x00\x00\x01", ""},
		{"\x00\x00\x02\x00ab\x00\x00\x01\x00c", "cb"},
		{"\x01\x00\xff\xffab", string(make([]byte, 512)) + "ab"},
		{"\x05\x00\x00\x00\x00\x00\x01\x00a", "a"},
	} {
		if got := contents(t, unpack(t, []byte(x.in))); string(got) != x.want {
			t.Errorf("%q: %d bytes %q", x.in, len(got), bytes.TrimLeft(got, "\x00"))
		}
	}
	far := unpack(t, []byte("\xff\xff\x01\x00a"))
	if far.Size() != 65535*512+1 {
		t.Errorf("%d bytes", far.Size())
	}
}
