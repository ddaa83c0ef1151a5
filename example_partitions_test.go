package cowl_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/partition"
)

// The disk in a qcow2 image is read as an io.ReaderAt, and its partitions are listed.
func Example_partitions() {
	if err := partitions(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// mbr partition 1: 33554432 bytes at 1048576, type 83, begins with "hello"
}

func partitions() error {
	dir, err := os.MkdirTemp("", "cowl-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, name := context.Background(), filepath.Join(dir, "disk.qcow2")
	if err := makeDisk(ctx, name); err != nil {
		return err
	}

	img, err := cowl.Open(ctx, cowl.Source{Filename: name, Format: "qcow2"}, cowl.OpenOptions{Gate: cowl.DenyAll()})
	if err != nil {
		return err
	}
	defer img.Close(ctx)
	disk := img.ReaderAt(ctx)
	table, err := partition.Read(disk, img.Size())
	if err != nil {
		return err
	}
	for _, p := range table.Partitions {
		head := make([]byte, 5)
		if _, err := p.Section(disk).ReadAt(head, 0); err != nil {
			return err
		}
		fmt.Printf("%s partition %d: %d bytes at %d, type %02x, begins with %q\n", table.Scheme, p.Number, p.Length, p.Start, p.Type, head)
	}
	return nil
}

// makeDisk makes a disk with one partition.
func makeDisk(ctx context.Context, name string) error {
	if err := cowl.Create(ctx, cowl.CreateJob{Filename: name, Format: "qcow2", Size: 64 << 20}); err != nil {
		return err
	}
	img, err := cowl.Open(ctx, cowl.Source{Filename: name, Format: "qcow2"}, cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()})
	if err != nil {
		return err
	}
	mbr := make([]byte, 512)
	mbr[446+4] = 0x83
	binary.LittleEndian.PutUint32(mbr[446+8:], 2048)
	binary.LittleEndian.PutUint32(mbr[446+12:], 65536)
	mbr[510], mbr[511] = 0x55, 0xaa
	if _, err := img.WriteAt(ctx, mbr, 0); err != nil {
		return err
	}
	if _, err := img.WriteAt(ctx, []byte("hello"), 2048*512); err != nil {
		return err
	}
	return img.Close(ctx)
}
