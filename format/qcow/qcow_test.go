package qcow_test

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/qcow"
	"github.com/cowl-disk/cowl/opts"
)

const cluster = 4096

func newLab(t *testing.T) *drivertest.Lab {
	t.Helper()
	l := drivertest.NewLab(t, qcow.New(), binary.BigEndian)
	l.Create("a", 5<<20, opts.Dict{})
	return l
}

// TestRefused: what cannot be worked with says why.
func TestRefused(t *testing.T) {
	for _, c := range []struct {
		off   int64
		width int
		v     uint64
		want  string
	}{
		{0, 4, 1, "image not in qcow format"},
		{4, 4, 3, "qcow (v1) does not support qcow version 3"},
		{4, 4, 9, "qcow (v1) does not support qcow version 9"},
		{24, 8, 1, "image size is too small"},
		{24, 8, 1 << 63, "image too large"},
		{24, 8, 1 << 60, "image too large"},
		{32, 4, 8<<24 | 9<<16, "cluster size must be between 512 and 64k"},
		{32, 4, 12<<24 | 14<<16, "L2 table size must be between 512 and 64k"},
		{36, 4, 7, "invalid encryption method"},
		{40, 8, 8, "the L1 table cannot lie at 8"},
		{8, 8, 1 << 40, "the name of the backing file cannot lie at"},
	} {
		l := newLab(t)
		l.Poke("a", c.off, c.width, c.v)
		if c.off == 8 {
			l.Poke("a", 16, 4, 10)
		}
		img, err := l.TryOpen("a", block.OpenOptions{})
		if err == nil {
			l.Close(img)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%#x at %d: %v, want %q", c.v, c.off, err, c.want)
		}
	}
}

// TestCompressed: compressed clusters follow each other without a gap, and what is written
// over one leaves the others.
func TestCompressed(t *testing.T) {
	l := newLab(t)
	img := l.Open("a")
	fill := func(b byte) []byte { return bytes.Repeat([]byte{b, b + 1}, cluster/2) }
	for i := range 3 {
		enc, ok, err := img.Encode(nil, fill(byte(i)))
		if err != nil || !ok {
			t.Fatalf("%v, %v", ok, err)
		}
		if err := img.WriteEncoded(t.Context(), int64(i)*cluster, enc); err != nil {
			t.Fatal(err)
		}
		if err := img.WriteEncoded(t.Context(), int64(i)*cluster, enc); err == nil {
			t.Error("a cluster was compressed twice")
		}
	}
	l.Write(img, cluster+100, []byte("over"))
	l.Close(img)
	img = l.Open("a")
	defer l.Close(img)
	l.Want(img, 0, fill(0))
	l.Want(img, 2*cluster+1, fill(2)[1:])
	want := fill(1)
	copy(want[100:], "over")
	l.Want(img, cluster, want)
	if size := l.Mem.Disk("a").Size(); size > 5*cluster {
		t.Errorf("three compressed clusters, a table and a plain one take %d bytes", size)
	}
}

// TestCrossedTables: a directory whose entries all name one table neither hangs nor lets a
// write through one of them change another part of the disk unseen.
func TestCrossedTables(t *testing.T) {
	l := newLab(t)
	img := l.Open("a")
	l.Write(img, 0, []byte("first"))
	l.Close(img)
	l.Poke("a", 56, 8, l.Peek("a", 48, 8)) // the second table is the first
	img = l.Open("a")
	defer l.Close(img)
	l.Want(img, 2<<20, []byte("first"))
	l.Write(img, 4<<20, []byte("third"))
	l.Want(img, 0, []byte("first"))
}
