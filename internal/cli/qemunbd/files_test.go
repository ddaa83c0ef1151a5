package qemunbd

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestRemoveSocket(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(file, []byte("data"), 0o644); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(file, link); err != nil {
		t.Skip(err)
	}
	for _, name := range []string{file, link, dir} {
		if err := removeSocket(name); err == nil || !strings.Contains(err.Error(), "no socket") {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Lstat(name); err != nil {
			t.Errorf("%s is gone", name)
		}
	}
	if err := removeSocket(filepath.Join(dir, "missing")); err != nil {
		t.Errorf("no file: %v", err)
	}
	sock := filepath.Join(dir, "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Skip(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if err := removeSocket(sock); err != nil {
		t.Errorf("a socket: %v", err)
	}
	if _, err := os.Lstat(sock); err == nil {
		t.Error("the socket is still there")
	}
}

func TestPIDFile(t *testing.T) {
	want := strconv.Itoa(os.Getpid()) + "\n"
	for _, tt := range []struct {
		name, before string
		replaced     bool
	}{
		{"empty", "", true}, {"number", "12345\n", true}, {"longer number", "1234567890123\n", true}, {"text", "disk\n", false},
		{"number and text", "1\nx", false}, {"zeroes", strings.Repeat("\x00", 4096), false}, {"digits", strings.Repeat("1", 100), false}, {"spaces", strings.Repeat(" ", 100) + "data", false},
	} {
		name := filepath.Join(t.TempDir(), "pid")
		if err := os.WriteFile(name, []byte(tt.before), 0o644); err != nil {
			t.Fatal(err)
		}
		err := writePID(name)
		after, _ := os.ReadFile(name)
		if tt.replaced && (err != nil || string(after) != want) {
			t.Errorf("%s: %v, %q", tt.name, err, after)
		}
		if !tt.replaced && (err == nil || string(after) != tt.before) {
			t.Errorf("%s: %v, %q", tt.name, err, after)
		}
	}
	name := filepath.Join(t.TempDir(), "new")
	if err := writePID(name); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(name); string(got) != want {
		t.Errorf("new: %q", got)
	}
}
