package rbd_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/native"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/rbd"
)

// TestOneProgram: making an image, laying it out and filling it start one program.
func TestOneProgram(t *testing.T) {
	c := cluster(t)
	dir := t.TempDir()
	counter, wrapper := filepath.Join(dir, "starts"), filepath.Join(dir, "wrapper")
	script := fmt.Sprintf("#!/bin/sh\necho >>%s\nexec %s \"$@\"\n", counter, os.Getenv(native.Variable))
	if err := os.WriteFile(wrapper, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv(native.Variable, wrapper)
	want := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(1), want)
	source := filepath.Join(dir, "source")
	if err := os.WriteFile(source, want, 0o644); err != nil {
		t.Fatal(err)
	}
	reg := block.NewRegistry(raw.New(), qcow2.New(), file.New(), rbd.New())
	for _, format := range []string{"raw", "qcow2"} {
		target := c.Name(name())
		for what, do := range map[string]func() error{
			"creating": func() error {
				return ops.Create(t.Context(), ops.CreateJob{Registry: reg, Filename: c.Name(name()), Format: format, Size: 1 << 20})
			},
			"copying": func() error {
				_, err := ops.Copy(t.Context(), ops.CopyJob{Registry: reg, Files: []block.Source{{Filename: source, Format: "raw"}}, Open: block.OpenOptions{Gate: driver.DenyAll},
					New: &ops.CreateJob{Registry: reg, Filename: target, Format: format}})
				return err
			},
		} {
			if err := os.Remove(counter); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			if err := do(); err != nil {
				t.Errorf("%s, %s: %v", what, format, err)
			}
			if starts, err := os.ReadFile(counter); err != nil || len(starts) != 1 {
				t.Errorf("%s, %s: %d programs, %v", what, format, len(starts), err)
			}
		}
		img, err := block.Open(t.Context(), reg, block.Source{Filename: target, Format: format}, block.OpenOptions{Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: other data, %v", format, err)
		}
		if err := img.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}
