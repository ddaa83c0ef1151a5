package drivertest

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// Lab holds images on disks in memory, for a format's own tests: what it does to
// their bytes, and what becomes of that. What fails, fails the test.
type Lab struct {
	T   testing.TB
	Mem *mem.Driver
	Reg *block.Registry

	format string
	order  binary.ByteOrder
}

// NewLab returns a lab for images of a format with numbers in a byte order. more are
// further drivers.
func NewLab(t testing.TB, drv driver.Driver, order binary.ByteOrder, more ...driver.Driver) *Lab {
	l := &Lab{T: t, Mem: mem.New().(*mem.Driver), format: drv.Desc().Name, order: order}
	l.Reg = block.NewRegistry(append([]driver.Driver{drv, l.Mem}, more...)...)
	return l
}

// Create makes an image of a name.
func (l *Lab) Create(name string, size int64, o opts.Dict) {
	l.T.Helper()
	err := block.Create(l.T.Context(), l.Reg, block.CreateRequest{Filename: "mem:" + name, Format: l.format, Size: size, Options: o, Gate: driver.AllowAll})
	if err != nil {
		l.T.Fatal(err)
	}
}

// TryOpen opens an image as o says, with any gate.
func (l *Lab) TryOpen(name string, o block.OpenOptions) (*block.Image, error) {
	o.Gate = driver.AllowAll
	return block.Open(l.T.Context(), l.Reg, block.Source{Filename: "mem:" + name, Format: l.format}, o)
}

// Open opens an image for writing.
func (l *Lab) Open(name string) *block.Image {
	l.T.Helper()
	img, err := l.TryOpen(name, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}, Unmap: true})
	if err != nil {
		l.T.Fatal(err)
	}
	return img
}

// Close closes an image.
func (l *Lab) Close(img *block.Image) {
	l.T.Helper()
	if err := img.Close(l.T.Context()); err != nil {
		l.T.Fatal(err)
	}
}

// Write writes to a disk.
func (l *Lab) Write(img *block.Image, off int64, p []byte) {
	l.T.Helper()
	if _, err := img.WriteAt(l.T.Context(), p, off); err != nil {
		l.T.Fatal(err)
	}
}

// Want wants a disk to have these bytes at off.
func (l *Lab) Want(img *block.Image, off int64, p []byte) {
	l.T.Helper()
	got := make([]byte, len(p))
	if _, err := img.ReadAt(l.T.Context(), got, off); err != nil && err != io.EOF {
		l.T.Fatal(err)
	}
	if !bytes.Equal(got, p) {
		l.T.Fatalf("other bytes at %d", off)
	}
}

// Poke writes a number of width bytes, 4 or 8, to the file of an image.
func (l *Lab) Poke(name string, off int64, width int, v uint64) {
	l.T.Helper()
	b := make([]byte, 8)
	if width == 4 {
		l.order.PutUint32(b, uint32(v))
	} else {
		l.order.PutUint64(b, v)
	}
	if _, err := l.Mem.Disk(name).WriteAt(l.T.Context(), b[:width], off); err != nil {
		l.T.Fatal(err)
	}
}

// Peek reads a number of width bytes, 4 or 8, from the file of an image.
func (l *Lab) Peek(name string, off int64, width int) uint64 {
	l.T.Helper()
	b := make([]byte, width)
	if _, err := l.Mem.Disk(name).ReadAt(l.T.Context(), b, off); err != nil {
		l.T.Fatal(err)
	}
	if width == 4 {
		return uint64(l.order.Uint32(b))
	}
	return l.order.Uint64(b)
}

// Check checks an image, which is opened for that, and repairs what fix says. It
// returns the lines that were reported, too.
func (l *Lab) Check(name string, fix driver.CheckFix) (*driver.CheckResult, []string) {
	l.T.Helper()
	img, err := l.TryOpen(name, block.OpenOptions{Use: block.Use{Check: true}, Write: fix != driver.CheckFix{}})
	if err != nil {
		l.T.Fatal(err)
	}
	defer l.Close(img)
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(l.T.Context(), fix, func(s string) { lines = append(lines, s) }, nil)
	if err != nil {
		l.T.Fatal(err)
	}
	return res, lines
}
