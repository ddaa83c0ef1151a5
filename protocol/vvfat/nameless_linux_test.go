package vvfat

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNameless: the temporary file never has a name, which would be left if the program were killed.
func TestNameless(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", dir)
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		t.Skipf("no files without a name here: %v", err)
	} else {
		unix.Close(fd)
	}
	watch, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(watch)
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE); err != nil {
		t.Skip(err)
	}
	v, err := newOverlay()
	if err != nil {
		t.Fatal(err)
	}
	if err := v.write(make([]byte, sector), 0); err != nil {
		t.Error(err)
	}
	if n, err := unix.Read(watch, make([]byte, 4096)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("%d bytes of events, %v", n, err)
	}
	if err := v.close(); err != nil {
		t.Error(err)
	}
}
