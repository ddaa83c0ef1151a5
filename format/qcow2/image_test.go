package qcow2_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
)

// registry knows qcow2, files, raw data for external data files, and what the
// test brings.
func registry(extra ...driver.Driver) *block.Registry {
	return block.NewRegistry(append([]driver.Driver{qcow2.New(), file.New()}, extra...)...)
}

func openOpts(write bool) block.OpenOptions {
	return block.OpenOptions{Write: write, Sharing: block.Sharing{Resize: write}, Unmap: true, Gate: driver.AllowAll}
}

// openImage opens an image with the options given as key=value.
func openImage(t testing.TB, path string, write bool, options ...string) *block.Image {
	t.Helper()
	d := opts.Dict{}
	for _, o := range options {
		k, v, _ := strings.Cut(o, "=")
		d[k] = v
	}
	img, err := block.Open(context.Background(), registry(), block.Source{Filename: path, Format: "qcow2", Options: d}, openOpts(write))
	if err != nil {
		t.Fatalf("opening %s: %v", path, err)
	}
	return img
}

func closeImage(t testing.TB, img *block.Image) {
	t.Helper()
	if err := img.Close(context.Background()); err != nil {
		t.Fatalf("closing %s: %v", img.Filename(), err)
	}
}

// created are images that QEMU made for create, by size and options.
var created sync.Map

// create makes an image with the options given as key=value. QEMU makes it, and of the
// same size and options only once: its bytes depend on nothing else, unless options name
// other files.
func create(t testing.TB, path string, size int64, options ...string) {
	t.Helper()
	what := fmt.Sprintf("%d %q", size, options)
	if b, ok := created.Load(what); ok {
		if err := os.WriteFile(path, b.([]byte), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	createByOriginal(t, path, size, options)
	const most = 1 << 20 // larger ones have holes, which a copy would lack
	if info, err := os.Stat(path); err != nil {
		t.Fatal(err)
	} else if strings.Contains(what, "_file=") || info.Size() > most {
		return
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	created.Store(what, b)
}

func createByOriginal(t testing.TB, path string, size int64, options []string) {
	t.Helper()
	args := []string{"create", "-q", "-f", "qcow2"}
	for _, o := range options {
		if rest, ok := strings.CutPrefix(o, "backing_file="); ok {
			args = append(args, "-b", rest)
			continue
		}
		if rest, ok := strings.CutPrefix(o, "backing_fmt="); ok {
			args = append(args, "-F", rest)
			continue
		}
		args = append(args, "-o", o)
	}
	cmd := exec.Command(testkit.Tool(t, "qemu-img"), append(args, path, fmt.Sprint(size))...)
	cmd.Dir = filepath.Dir(path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("qemu-img create %v: %v\n%s", options, err, out)
	}
}

// qemuIO runs commands of qemu-io on an image.
func qemuIO(t testing.TB, path string, commands ...string) {
	t.Helper()
	args := []string{"-f", "qcow2", "-d", "unmap"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	out := testkit.Run(t, "qemu-io", append(args, path)...)
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Fatalf("qemu-io %v: %s", commands, out)
	}
}

// checkClean asks QEMU whether the image is consistent, leaks included.
func checkClean(t testing.TB, path string) {
	t.Helper()
	out, errOut, code := testkit.Try(t, "qemu-img", "check", "-f", "qcow2", path)
	if code != 0 {
		t.Fatalf("qemu-img check %s: exit code %d\n%s%s", path, code, out, errOut)
	}
}

// readAll reads the whole disk in pieces of an odd size.
func readAll(t testing.TB, img *block.Image) []byte {
	t.Helper()
	out := make([]byte, img.Size())
	for off := 0; off < len(out); {
		n := min(len(out)-off, 1<<20+4096+512)
		if _, err := img.ReadAt(context.Background(), out[off:off+n], int64(off)); err != nil {
			t.Fatalf("reading %d bytes at %d: %v", n, off, err)
		}
		off += n
	}
	return out
}

// original reads the whole disk with QEMU.
func original(t testing.TB, path string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "original.raw")
	testkit.Run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
