package cowl_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl"
)

// An overlay takes what is written; the image below stays as it is.
func ExampleOverlay() {
	if err := overlay(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// overlay baseTOP!base, base basebasebase
}

func overlay() error {
	dir, err := os.MkdirTemp("", "cowl-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, base := context.Background(), filepath.Join(dir, "base.raw")
	if err := os.WriteFile(base, bytes.Repeat([]byte("base"), 1<<18), 0o600); err != nil {
		return err
	}
	img, err := cowl.Overlay(ctx, cowl.OverlayJob{Filename: filepath.Join(dir, "overlay.qcow2"), Base: "base.raw", BaseFormat: "raw"})
	if err != nil {
		return err
	}
	if _, err := img.WriteAt(ctx, []byte("TOP!"), 4); err != nil {
		return err
	}
	got := make([]byte, 12)
	if _, err := img.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if err := img.Close(ctx); err != nil { // metadata may be written now
		return err
	}
	below, err := os.ReadFile(base)
	if err != nil {
		return err
	}
	fmt.Printf("overlay %s, base %s\n", got, below[:12])
	return nil
}
