package cowl_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/block/driver"
)

// A stranger's upload is opened: its format is what the caller expects, not what it looks
// like, it gets no other file to see, and what it may cost is bounded.
func Example_upload() {
	if err := upload(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// refused: the image names another file
}

func upload() error {
	dir, err := os.MkdirTemp("", "cowl-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	ctx, name := context.Background(), filepath.Join(dir, "upload")
	secret, raw := filepath.Join(dir, "secret"), "raw"
	if err := os.WriteFile(secret, make([]byte, 1<<20), 0o600); err != nil {
		return err
	}
	// The stranger's image names a file of this machine as its backing file.
	if err := cowl.Create(ctx, cowl.CreateJob{Filename: name, Format: "qcow2", Backing: &secret, BackingFormat: &raw, Gate: cowl.AllowAll()}); err != nil {
		return err
	}

	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	storage, err := cowl.FromFile(f)
	if err != nil {
		return err
	}
	img, err := cowl.Open(ctx, cowl.Source{Storage: storage, Format: "qcow2"},
		cowl.OpenOptions{Gate: cowl.DenyAll(), Budget: &cowl.Budget{MaxTableBytes: 16 << 20}})
	if errors.Is(err, driver.ErrGate) {
		fmt.Println("refused: the image names another file")
		return nil
	}
	if err != nil {
		return err
	}
	return img.Close(ctx)
}
