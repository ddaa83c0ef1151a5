package quorum_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strconv"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/quorum"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

const size = 64 << 10

// open makes a quorum of disks that are filled with the bytes of fill, one each.
func open(t *testing.T, fill string, o opts.Dict) (*block.Image, []*mem.Disk) {
	t.Helper()
	m := mem.New().(*mem.Driver)
	d := opts.Dict{"driver": "quorum"}
	var disks []*mem.Disk
	for i := range fill {
		disk := mem.NewDisk(size)
		if _, err := disk.WriteAt(t.Context(), bytes.Repeat([]byte{fill[i]}, size), 0); err != nil {
			t.Fatal(err)
		}
		n := strconv.Itoa(i)
		m.Add(n, disk)
		disks = append(disks, disk)
		d["children."+n+".driver"], d["children."+n+".file.driver"], d["children."+n+".file.filename"] = "raw", "mem", n
	}
	for k, v := range o {
		d[k] = v
	}
	img, err := block.Open(t.Context(), block.NewRegistry(quorum.New(), raw.New(), m), block.Source{Options: d},
		block.OpenOptions{Write: true, Unmap: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(context.Background()) })
	return img, disks
}

func content(t *testing.T, d *mem.Disk) byte {
	t.Helper()
	p := make([]byte, size)
	if _, err := d.ReadAt(t.Context(), p, 0); err != nil && err != io.EOF {
		t.Fatal(err)
	}
	for _, b := range p {
		if b != p[0] {
			t.Fatal("the disk is not of one byte")
		}
	}
	return p[0]
}

func TestVotes(t *testing.T) {
	for _, c := range []struct {
		fill string
		o    opts.Dict
		want byte  // 0: an error
		err  error // if any
		left string
	}{
		{"aaa", opts.Dict{"vote-threshold": "3"}, 'a', nil, "aaa"},
		{"baa", opts.Dict{"vote-threshold": "2"}, 'a', nil, "baa"},
		{"baa", opts.Dict{"vote-threshold": "2", "rewrite-corrupted": "on"}, 'a', nil, "aaa"},
		{"aab", opts.Dict{"vote-threshold": "2", "rewrite-corrupted": "on"}, 'a', nil, "aaa"},
		{"baa", opts.Dict{"vote-threshold": "3"}, 0, syscall.EIO, "baa"},
		{"abc", opts.Dict{"vote-threshold": "2"}, 0, syscall.EIO, "abc"},
		{"ba", opts.Dict{"vote-threshold": "1", "read-pattern": "fifo"}, 'b', nil, "ba"},
		{"ab", opts.Dict{"vote-threshold": "2", "blkverify": "on"}, 0, driver.ErrCorrupt, "ab"},
		{"aa", opts.Dict{"vote-threshold": "2", "blkverify": "on"}, 'a', nil, "aa"},
	} {
		img, disks := open(t, c.fill, c.o)
		p := make([]byte, size)
		_, err := img.ReadAt(t.Context(), p, 0)
		switch {
		case c.want == 0 && !errors.Is(err, c.err), c.want != 0 && (err != nil || !bytes.Equal(p, bytes.Repeat([]byte{c.want}, size))):
			t.Errorf("%s %v: %c, %v", c.fill, c.o, p[0], err)
		}
		for i, d := range disks {
			if got := content(t, d); got != c.left[i] {
				t.Errorf("%s %v: child %d holds %c, want %c", c.fill, c.o, i, got, c.left[i])
			}
		}
	}
}

// TestFailures: children that fail, up to the threshold and beyond it.
func TestFailures(t *testing.T) {
	fail := func(op mem.Op) mem.Hook {
		return func(o mem.Op, _, _ int64) error {
			if o == op {
				return syscall.EIO
			}
			return nil
		}
	}
	img, disks := open(t, "aaa", opts.Dict{"vote-threshold": "2"})
	disks[1].SetHook(fail(mem.OpWrite))
	if _, err := img.WriteAt(t.Context(), []byte("xyz"), 0); err != nil {
		t.Errorf("one of three cannot be written: %v", err)
	}
	disks[1].SetHook(fail(mem.OpRead))
	p := make([]byte, 3)
	if _, err := img.ReadAt(t.Context(), p, 0); err != nil || string(p) != "xyz" {
		t.Errorf("one of three cannot be read: %q, %v", p, err)
	}
	disks[1].SetHook(fail(mem.OpWrite))
	disks[2].SetHook(fail(mem.OpWrite))
	if _, err := img.WriteAt(t.Context(), []byte("x"), 0); !errors.Is(err, syscall.EIO) {
		t.Errorf("two of three cannot be written: %v", err)
	}
	img, disks = open(t, "ab", opts.Dict{"vote-threshold": "1", "read-pattern": "fifo"})
	disks[0].SetHook(fail(mem.OpRead))
	if _, err := img.ReadAt(t.Context(), p, 0); err != nil || string(p) != "bbb" {
		t.Errorf("the first cannot be read: %q, %v", p, err)
	}
}
