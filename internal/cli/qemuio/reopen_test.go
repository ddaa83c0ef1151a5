package qemuio

import (
	"bytes"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/opts"
)

// run does args and returns what was printed on both outputs, and the exit code.
func run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	var b bytes.Buffer
	p := &Program{Name: "qemu-io", Streams: program.Streams{Stdin: strings.NewReader(""), Stdout: &b, Data: &b, Stderr: &b, Screen: &b}, Drivers: drivers.All()}
	code = p.Run(t.Context(), args)
	return b.String(), code
}

func newImage(t *testing.T, options opts.Dict) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	if err := block.Create(t.Context(), block.NewRegistry(drivers.All()...), block.CreateRequest{Filename: path, Format: "qcow2", Size: 1 << 20, Options: options}); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReopen(t *testing.T) {
	path := newImage(t, nil)
	for _, c := range []struct{ name, options, want string }{
		{"driver", "driver=raw", "Cannot change the option 'driver'"},
		{"same driver", "driver=qcow2", ""},
		{"driver of the file", "file.driver=qcow2", "Cannot change the option 'driver'"},
		{"same driver of the file", "file.driver=file", ""},
		{"node-name", "node-name=a", "Cannot change the option 'node-name'"},
		{"node-name of the file", "file.node-name=a", "Cannot change the option 'node-name'"},
		{"the words for no node-name", "node-name=<nil>", "Cannot change the option 'node-name'"},
		{"empty node-name of the file", "file.node-name=", "Cannot change the option 'node-name'"},
		{"no boolean", "read-only=a", "Parameter 'read-only' expects 'on' or 'off'"},
		{"no boolean of the driver", "lazy-refcounts=a", "Parameter 'lazy-refcounts' expects 'on' or 'off'"},
		{"too large", "refcount-cache-size=256T", "Refcount cache size too big"},
	} {
		want, failed := "", 0
		if c.want != "" {
			want, failed = "qemu-io: "+c.want+"\n", 1
		}
		if got, code := run(t, "-f", "qcow2", "-c", "reopen -o "+c.options, path); got != want || code != failed {
			t.Errorf("%s: %q, exit code %d; want %q, %d", c.name, got, code, want, failed)
		}
	}
}

// TestReopenFails: after options that are refused the image is open as before.
func TestReopenFails(t *testing.T) {
	path := newImage(t, nil)
	got, code := run(t, "-f", "qcow2", "-c", "reopen -o overlap-check=a,read-only=on", "-c", "write -q -P 7 0 4k", "-c", "read -q -P 7 0 4k", path)
	if want := "qemu-io: Unsupported value 'a' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all\n"; got != want || code != 1 {
		t.Errorf("%q, exit code %d; want %q, 1", got, code, want)
	}
}

// TestReopenJoins: options of one reopen hold in the next one, as far as that does not
// contradict them.
func TestReopenJoins(t *testing.T) {
	path := newImage(t, nil)
	for _, c := range [][2]string{
		{"overlap-check=none", "overlap-check.template=all"},
		{"cache-size=1M", "l2-cache-size=512k,refcount-cache-size=512k"},
		{"l2-cache-size=4M", "cache-size=1M"},
	} {
		if got, code := run(t, "-f", "qcow2", "-c", "reopen -o "+c[0], "-c", "reopen -o "+c[1], path); got != "" || code != 0 {
			t.Errorf("%v: %q, exit code %d", c, got, code)
		}
	}
}

func TestInfoOfProtocol(t *testing.T) {
	got, code := run(t, "-f", "null-co", "-c", "info", "json:{'driver': 'null-co', 'size': 65536}")
	if want := "format name: null-co\nformat name: null-co\n"; got != want || code != 1 {
		t.Errorf("%q, exit code %d; want %q, 1", got, code, want)
	}
}

// TestCopyOnReadBelowFilter: the name of the file is for the end of the chain of drivers
// that the options tell.
func TestCopyOnReadBelowFilter(t *testing.T) {
	base := newImage(t, nil)
	if got, code := run(t, "-f", "qcow2", "-c", "write -q -P 7 0 64k", base); code != 0 {
		t.Fatal(got)
	}
	top := newImage(t, opts.Dict{"backing_file": base, "backing_fmt": "qcow2"})
	got, code := run(t, "-c", "open -C -o driver=blkdebug,image.driver=qcow2 "+top, "-c", "read -q -P 7 0 4k")
	if got != "" || code != 0 {
		t.Fatalf("%q, exit code %d", got, code)
	}
	got, _ = run(t, "-f", "qcow2", "-c", "alloc 0 1M", top)
	if want := "65536/1048576 bytes allocated at offset 0 bytes\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestWarn: only what the program itself says has its name.
func TestWarn(t *testing.T) {
	var b bytes.Buffer
	s := &session{Program: &Program{Name: "qemu-io", Streams: program.Streams{Stderr: &b}}}
	s.warn("one")
	s.warn("qcow2: Image is corrupt: two")
	if want := "qemu-io: warning: one\nqcow2: Image is corrupt: two\n"; b.String() != want {
		t.Errorf("%q, want %q", b.String(), want)
	}
}

// TestVMState writes and reads the state of a virtual machine.
func TestVMState(t *testing.T) {
	path := newImage(t, nil)
	got, code := run(t, "-f", "qcow2", "-c", "write -q -b -P 7 2M 64k", "-c", "read -q -b -P 7 2M 64k", "-c", "read -q -b -P 0 0 2M", "-c", "read -q -P 0 0 1M", path)
	if got != "" || code != 0 {
		t.Errorf("%q, exit code %d", got, code)
	}
	for line, want := range map[string]string{
		"read -b 0 512":  "read failed: Operation not supported\n",
		"write -b 0 512": "write failed: Operation not supported\n",
		"write -b 1 512": "1 is not a sector-aligned value for 'offset'\n",
	} {
		if got, code := run(t, "-f", "raw", "-c", line, path); got != want || code != 1 {
			t.Errorf("%s: %q, exit code %d; want %q, 1", line, got, code, want)
		}
	}
}
