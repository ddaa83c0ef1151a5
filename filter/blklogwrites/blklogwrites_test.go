package blklogwrites_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/filter/blklogwrites"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// replay plays a log, whose layout is that of the kernel's documentation, on a disk of
// zeroes.
func replay(t *testing.T, log []byte, size int) (disk []byte, flushes int) {
	t.Helper()
	le := binary.LittleEndian
	if le.Uint64(log) != 0x6a736677736872 || le.Uint64(log[8:]) != 1 || le.Uint32(log[24:]) != 512 {
		t.Fatalf("super block %x", log[:28])
	}
	disk = make([]byte, size)
	at := 512
	for range le.Uint64(log[16:]) {
		sector, count, flags := le.Uint64(log[at:]), le.Uint64(log[at+8:]), le.Uint64(log[at+16:])
		at += 512
		switch {
		case flags&1 != 0:
			flushes++
		case flags&4 != 0:
			clear(disk[sector*512 : (sector+count)*512])
		default:
			copy(disk[sector*512:], log[at:at+int(count)*512])
			at += int(count) * 512
		}
	}
	return disk, flushes
}

func TestReplay(t *testing.T) {
	const size = 64 << 10
	m := mem.New().(*mem.Driver)
	disk, log := mem.NewDisk(size), mem.NewDisk(0)
	m.Add("disk", disk)
	m.Add("log", log)
	reg := block.NewRegistry(blklogwrites.New(), raw.New(), m)
	session := func(more bool, change func(*block.Image) error) {
		t.Helper()
		o := opts.Dict{"driver": "blklogwrites", "log-append": more, "file.driver": "mem", "file.filename": "disk", "log.driver": "mem", "log.filename": "log"}
		img, err := block.Open(t.Context(), reg, block.Source{Options: o}, block.OpenOptions{Write: true, Unmap: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		if err := change(img); err != nil {
			t.Fatal(err)
		}
		if err := img.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	session(false, func(img *block.Image) error {
		if _, err := img.WriteAt(t.Context(), bytes.Repeat([]byte("data"), 3000), 700); err != nil {
			return err
		}
		if err := img.WriteZeroes(t.Context(), 1024, 2048, 0); err != nil {
			return err
		}
		return img.Discard(t.Context(), 8192, 512)
	})
	session(true, func(img *block.Image) error {
		_, err := img.WriteAt(t.Context(), []byte("later"), 40_000)
		return err
	})
	read := func(d *mem.Disk) []byte {
		b := make([]byte, d.Size())
		if _, err := d.ReadAt(t.Context(), b, 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		return b
	}
	got, flushes := replay(t, read(log), size)
	if !bytes.Equal(got, read(disk)) {
		t.Error("the log does not make the disk")
	}
	if flushes != 2 {
		t.Errorf("%d flushes", flushes)
	}
}
