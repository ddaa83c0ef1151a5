package qemuga

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/windows"

	"github.com/cowl-disk/cowl/guestagent"
)

// openVirtio opens a port of virtio-serial. A reply is written while the next request
// is waited for, which needs a handle for overlapped calls.
func openVirtio(path string) (channel, error) { return openPort(path) }

// openSerial opens a serial port by its name, such as COM1. A read ends when there
// is a pause of a millisecond behind the bytes that came.
func openSerial(path string) (channel, error) {
	c, err := openPort(`\\.\` + path)
	if err != nil {
		return nil, err
	}
	timeouts := windows.CommTimeouts{ReadIntervalTimeout: 1}
	raw, err := c.file.SyscallConn()
	if err == nil {
		var set error
		err = raw.Control(func(fd uintptr) { set = windows.SetCommTimeouts(windows.Handle(fd), &timeouts) })
		err = errors.Join(err, set)
	}
	if err != nil {
		c.close()
		return nil, fmt.Errorf("error setting timeout for com port: %w", guestagent.Cause(err))
	}
	return c, nil
}

// port is a port and the stream over it.
type port struct {
	stream
	file *os.File
}

func openPort(path string) (*port, error) {
	f, err := os.OpenFile(path, os.O_RDWR|windows.O_FILE_FLAG_OVERLAPPED|windows.O_FILE_FLAG_NO_BUFFERING, 0)
	if err != nil {
		return nil, fmt.Errorf("error opening path %s: %w", path, guestagent.Cause(err))
	}
	return &port{stream{f}, f}, nil
}
