package cowl_test

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/protocol/caller"
	"github.com/cowl-disk/cowl/protocol/file"
)

// A program that takes raw and qcow2 images in files needs no other driver: it uses package
// block with a registry of its own, and links no network code.
func Example_registry() {
	if err := registry(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// a server: true
	// what the program has: "hello"
}

func registry() error {
	ctx := context.Background()
	reg := block.NewRegistry(raw.New(), qcow2.New(), file.New())
	_, err := block.Open(ctx, reg, block.Source{Filename: "nbd://localhost/disk"}, block.OpenOptions{Gate: driver.DenyAll})
	fmt.Println("a server:", errors.Is(err, driver.ErrInvalid))

	img, err := block.Open(ctx, reg, block.Source{Storage: caller.ReaderAt(strings.NewReader("hello"), 5), Format: "raw"},
		block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		return err
	}
	defer img.Close(ctx)
	got := make([]byte, 5)
	_, err = img.ReadAt(ctx, got, 0)
	fmt.Printf("what the program has: %q\n", got)
	return err
}
