package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	clientDevice = "/dev/nbd2"
	clientImage  = "/tmp/client.qcow2"
	clientSocket = "/tmp/client.sock"
)

// foreignClient has nbd-client attach a device to our server, over a local socket and
// over TCP, by netlink and by ioctls, with one connection and with two. It does nothing
// where the host has no nbd-client.
func foreignClient() error {
	if !exists("/nbd-client") {
		return nil
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("lo: %w", err)
	}
	model := make([]byte, 4<<20)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(model)
	if err := os.WriteFile("/tmp/model", model, 0o644); err != nil {
		return err
	}
	if out, err := exec.Command("/qemu-img", "convert", "-f", "raw", "-O", "qcow2", "/tmp/model", clientImage).CombinedOutput(); err != nil {
		return fmt.Errorf("convert: %w: %s", err, out)
	}
	for _, transport := range []struct {
		name           string
		server, client []string
	}{
		{"unix", []string{"-k", clientSocket}, []string{"-unix", clientSocket, clientDevice}},
		{"tcp", []string{"-b", "127.0.0.1", "-p", "10900"}, []string{"127.0.0.1", "10900", clientDevice}},
	} {
		args := append([]string{"--fork", "--pid-file=/tmp/client.pid", "-t", "-e", "2", "-x", "disk", "-f", "qcow2"}, transport.server...)
		if out, err := nbd(append(args, clientImage)...); err != nil {
			return fmt.Errorf("serve: %w: %s", err, out)
		}
		for _, more := range [][]string{nil, {"-C", "2"}, {"-nonetlink"}, {"-nonetlink", "-C", "2"}} {
			if err := session(append(append([]string{"-N", "disk"}, transport.client...), more...), model, r); err != nil {
				return fmt.Errorf("%s %s: %w", transport.name, more, err)
			}
		}
		if err := endServer(model); err != nil {
			return fmt.Errorf("%s: %w", transport.name, err)
		}
		fmt.Println("guest-nbd-client:", transport.name)
	}
	return nil
}

// loopback brings the network device lo up.
func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// runClient runs nbd-client. What it leaves in the background keeps what it was given
// to write to, so that it gets no pipe.
func runClient(args ...string) error {
	out, err := os.Create("/tmp/nbd-client.out")
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := foreign("nbd-client", args...)
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(out.Name())
		return fmt.Errorf("%s: %w: %s", args, err, said)
	}
	return nil
}

// session attaches the device, reads all of it, writes to it, and detaches it.
func session(args []string, model []byte, r *rand.ChaCha8) error {
	if err := runClient(args...); err != nil {
		return err
	}
	size := strconv.Itoa(len(model) / 512)
	for end := time.Now().Add(patience); sysOf(clientDevice, "size") != size; {
		if time.Now().After(end) {
			return fmt.Errorf("the device has %s sectors, not %s", sysOf(clientDevice, "size"), size)
		}
		time.Sleep(time.Millisecond)
	}
	f, err := os.OpenFile(clientDevice, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	got := make([]byte, len(model))
	// Not what the kernel remembers of earlier sessions.
	if err := unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0); err != nil {
		return err
	}
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, model) {
		return errors.New("the device has other bytes than the image")
	}
	// They begin and end anywhere.
	off := int(r.Uint64() % uint64(len(model)-200_000))
	_, _ = r.Read(model[off : off+150_001])
	if _, err := f.WriteAt(model[off:off+150_001], int64(off)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	end := []string{"-d", clientDevice}
	if slices.Contains(args, "-nonetlink") {
		end = append(end, "-nonetlink")
	}
	if err := runClient(end...); err != nil {
		return err
	}
	for end := time.Now().Add(patience); sysOf(clientDevice, "pid") != ""; {
		if time.Now().After(end) {
			return errors.New("the device is still attached")
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// endServer ends the server, and compares its image with what it should hold.
func endServer(model []byte) error {
	text, err := os.ReadFile("/tmp/client.pid")
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return err
	}
	if err := waitGone(clientImage, "qcow2"); err != nil {
		return err
	}
	if out, err := exec.Command("/qemu-img", "check", clientImage).CombinedOutput(); err != nil {
		return fmt.Errorf("check: %w: %s", err, out)
	}
	if out, err := exec.Command("/qemu-img", "convert", "-f", "qcow2", "-O", "raw", clientImage, "/tmp/result").CombinedOutput(); err != nil {
		return fmt.Errorf("convert: %w: %s", err, out)
	}
	got, err := os.ReadFile("/tmp/result")
	if err != nil {
		return err
	}
	if !bytes.Equal(got, model) {
		return errors.New("the image does not hold what was written")
	}
	return nil
}
