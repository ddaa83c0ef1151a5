package differential

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestIncusKilledAtOnce kills cowl while the program that makes images reads its
// definition: nothing of it goes on.
func TestIncusKilledAtOnce(t *testing.T) {
	program, dir := packer(t)
	fifo := filepath.Join(dir, "fifo.yaml")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "validate", fifo)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w, err := os.OpenFile(fifo, os.O_WRONLY, 0) // once it reads
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	cmd.Process.Kill()
	cmd.Wait()
	if _, err := w.WriteString("image: {}\n"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("somebody still reads the definition: %v", err)
	}
}

// TestIncusKilledLeavesNothing kills each command while it writes an image. Where files
// need no names, nothing of it is in the folder, in that of temporary files or in that of
// what was downloaded, but whole files.
func TestIncusKilledLeavesNothing(t *testing.T) {
	ours, dir, commands := imageCommands(t)
	if fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600); err != nil {
		t.Skipf("the file system of %s has no files without names: %v", dir, err)
	} else {
		unix.Close(fd)
	}
	whole := map[string]bool{"incus.tar.gz": true, "incus.tar": true, "incus.tar.zst": true, "rootfs.squashfs": true, "disk.qcow2": true, "tiny-3.20-amd64-cloud-1.tar": true, "root.tar.gz": true}
	temporary := filepath.Join(dir, "temporary")
	if err := os.Mkdir(temporary, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range commands {
		cmd := exec.Command(ours, append(c.args, "--progress=json")...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "TMPDIR="+temporary)
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatal(err)
		}
		// It says what it does once it does it.
		lines := bufio.NewScanner(out)
		for lines.Scan() && !strings.Contains(lines.Text(), `"phase"`) {
		}
		if err := errors.Join(lines.Err(), cmd.Process.Kill()); err != nil {
			t.Error(err)
		}
		cmd.Wait()
		for _, folder := range []string{"out", "temporary", "sources"} {
			err := filepath.WalkDir(filepath.Join(dir, folder), func(path string, e fs.DirEntry, err error) error {
				if err == nil && !whole[e.Name()] && (!e.IsDir() || folder == "temporary" && path != temporary) {
					t.Errorf("%s leaves %s", c.name, path)
				}
				return err
			})
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
		if err := os.RemoveAll(filepath.Join(dir, "out")); err != nil {
			t.Fatal(err)
		}
	}
}
