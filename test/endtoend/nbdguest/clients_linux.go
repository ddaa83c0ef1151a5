package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/nbd/client"
)

// patience is how long the guest waits for what must come.
const patience = time.Minute

// foreign makes a command of a program of the host's, whose libraries are here, too.
func foreign(name string, args ...string) *exec.Cmd {
	return exec.Command("/ld-linux-x86-64.so.2", append([]string{"--library-path", "/", "/" + name}, args...)...)
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// secondClients has clients come to the socket of a server while the kernel is attached
// to it: of QEMU, if it is here, and of ours.
func secondClients() error {
	programs := map[string]func(...string) *exec.Cmd{"ours": func(args ...string) *exec.Cmd { return exec.Command("/qemu-nbd", args...) }}
	if exists("/original-qemu-nbd") {
		programs["original"] = func(args ...string) *exec.Cmd { return foreign("original-qemu-nbd", args...) }
	}
	for name, program := range programs {
		if err := crowd(program); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		fmt.Println("guest-second-client:", name)
	}
	return nil
}

// crowded serves a disk of 1 MiB.
const (
	crowdedDevice = "/dev/nbd1"
	crowdedSocket = "/var/lock/qemu-nbd-nbd1"
	crowdedImage  = "/tmp/crowded.raw"
)

func crowd(program func(...string) *exec.Cmd) error {
	if err := os.WriteFile(crowdedImage, make([]byte, 1<<20), 0o644); err != nil {
		return err
	}
	run := func(args ...string) error {
		if out, err := program(args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", args, err, out)
		}
		return nil
	}
	attach := func(shared string) error {
		if err := run("-c", crowdedDevice, "-e", shared, "-f", "raw", crowdedImage); err != nil {
			return err
		}
		// QEMU does not wait for the kernel.
		for sysOf(crowdedDevice, "pid") == "" || sysOf(crowdedDevice, "size") != "2048" {
			time.Sleep(time.Millisecond)
		}
		return nil
	}
	detach := func() error {
		if err := run("-d", crowdedDevice); err != nil {
			return err
		}
		return waitGone(crowdedImage, "raw")
	}
	// The kernel is the only client that there may be: others wait in vain.
	if err := attach("1"); err != nil {
		return err
	}
	waiting, err := net.Dial("unix", crowdedSocket)
	if err != nil {
		return err
	}
	if err := detach(); err != nil {
		return err
	}
	if greeted(waiting) {
		return errors.New("a second client is served where one may be")
	}
	if err := attach("2"); err != nil {
		return err
	}
	if err := two(); err != nil {
		return err
	}
	// What is left of the clients is sent away with the device.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Network: "unix", Address: crowdedSocket})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := detach(); err != nil {
		return err
	}
	if err := c.ReadAt(ctx, make([]byte, 512), 0); !errors.Is(err, client.ErrLost) {
		return fmt.Errorf("after the device was detached: %v", err)
	}
	return nil
}

// greeted waits for a server's first bytes, or for the end of the connection.
func greeted(c net.Conn) bool {
	defer c.Close()
	_ = c.SetReadDeadline(time.Now().Add(patience))
	n, _ := c.Read(make([]byte, 8))
	return n > 0
}

// two uses the disk together with the kernel, and has a third client wait.
func two() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := client.Dial(ctx, client.Config{Network: "unix", Address: crowdedSocket})
	if err != nil {
		return err
	}
	third, err := net.Dial("unix", crowdedSocket)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(crowdedDevice, os.O_RDWR|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mine, theirs := bytes.Repeat([]byte{1}, 64<<10), bytes.Repeat([]byte{2}, 64<<10)
	if err := c.WriteAt(ctx, mine, 512<<10, false); err != nil {
		return err
	}
	got := make([]byte, len(mine))
	if _, err := f.ReadAt(got, 512<<10); err != nil || !bytes.Equal(got, mine) {
		return fmt.Errorf("the kernel does not see what a client has written: %w", err)
	}
	if _, err := f.WriteAt(theirs, 768<<10); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := c.ReadAt(ctx, got, 768<<10); err != nil || !bytes.Equal(got, theirs) {
		return fmt.Errorf("a client does not see what the kernel has written: %w", err)
	}
	if err := c.Close(); err != nil {
		return err
	}
	if !greeted(third) {
		return errors.New("the third client is not served after the second has gone")
	}
	if sysOf(crowdedDevice, "pid") == "" {
		return errors.New("the device goes with a client")
	}
	return nil
}
