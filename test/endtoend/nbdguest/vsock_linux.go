package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
)

// bytesDevice is a disk of fixed contents.
type bytesDevice []byte

func (d bytesDevice) Size() int64 { return int64(len(d)) }

func (d bytesDevice) ReadAt(_ context.Context, p []byte, off int64) error {
	copy(p, d[off:])
	return nil
}

// vsock serves an export over a socket for virtual machines, and reads it through
// the kernel's loopback.
func vsock() error {
	for _, name := range []string{"/vsock.ko", "/vsock_common.ko", "/vsock_loopback.ko"} {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		if err != nil {
			return fmt.Errorf("load %s: %w", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	listeners, err := server.Listen("vsock", ":10809")
	if err != nil {
		return err
	}
	disk := bytesDevice(bytes.Repeat([]byte("virtual "), 1<<17))
	srv := server.New(server.Config{})
	if err := srv.AddExport(&server.Export{Name: "v", Device: disk}); err != nil {
		return err
	}
	go func() { _ = srv.Serve(ctx, listeners[0]) }()
	const local = "1"
	c, err := client.Dial(ctx, client.Config{Network: "vsock", Address: local + ":10809", Export: "v"})
	if err != nil {
		return err
	}
	defer c.Close()
	got := make([]byte, len(disk))
	if err := c.ReadAt(ctx, got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, disk) {
		return fmt.Errorf("other bytes come over the vsock")
	}
	fmt.Println("guest-vsock: ok")
	return srv.Shutdown(ctx)
}
