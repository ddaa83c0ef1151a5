package cowl_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl"
)

// A raw disk becomes a compressed qcow2 image, with progress. The target is removed again
// if the copy fails.
func ExampleCopy() {
	if err := convert(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 4194304 bytes copied; the image is smaller: true
}

func convert() error {
	dir, err := os.MkdirTemp("", "cowl-example-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	raw, qcow2 := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(raw, bytes.Repeat([]byte("cowl"), 1<<20), 0o600); err != nil {
		return err
	}
	res, err := cowl.Copy(context.Background(), cowl.CopyJob{
		Files:    []cowl.Source{{Filename: raw, Format: "raw"}},
		New:      &cowl.CreateJob{Filename: qcow2, Format: "qcow2"},
		Compress: true,
		Progress: func(p cowl.Progress) {
			fmt.Fprintf(os.Stderr, "%s: %d of %d bytes, %d a second, %v left\n", p.Phase, p.Done, p.Total, p.Rate, p.Remaining)
		},
	})
	if err != nil {
		return err
	}
	st, err := os.Stat(qcow2)
	if err != nil {
		return err
	}
	fmt.Println(res.Copied, "bytes copied; the image is smaller:", st.Size() < res.Copied)
	return nil
}
