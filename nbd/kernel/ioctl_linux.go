package kernel

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/message"
)

// The ioctls of the nbd driver (linux/nbd.h).
const (
	nbdSetSock       = 0xab00
	nbdSetBlockSize  = 0xab01
	nbdDoIt          = 0xab03
	nbdClearSock     = 0xab04
	nbdClearQueue    = 0xab05
	nbdSetSizeBlocks = 0xab07
	nbdDisconnect    = 0xab08
	nbdSetTimeout    = 0xab09
	nbdSetFlags      = 0xab0a
)

func ioctl(f *os.File, op uint, arg int) error {
	return unix.IoctlSetInt(int(f.Fd()), op, arg)
}

// connectIoctl attaches a device by ioctls. A goroutine stays in the kernel as
// long as the device is attached.
func (a *Attachment) connectIoctl(c Config) error {
	if len(c.Conns) != 1 {
		return fmt.Errorf("%s: %w", c.Device, ErrOneConn)
	}
	f, err := open(c.Device, os.O_RDWR)
	if err != nil {
		return err
	}
	steps := []struct {
		what string
		op   uint
		arg  int
	}{
		{"block size", nbdSetBlockSize, int(c.BlockSize)},
		{"size", nbdSetSizeBlocks, int(c.Size / c.BlockSize)},
		{"flags", nbdSetFlags, int(c.Flags)},
		{"timeout", nbdSetTimeout, int(c.Timeout.Seconds())},
	}
	if err := ioctl(f, nbdSetSock, int(c.Conns[0].Fd())); err != nil {
		f.Close()
		if err == unix.EBUSY {
			err = ErrBusy
		}
		return message.Errorf(nil, "failed to set NBD socket of %s: %w", c.Device, err)
	}
	for _, s := range steps {
		if s.op == nbdSetTimeout && s.arg == 0 {
			continue
		}
		if err := ioctl(f, s.op, s.arg); err != nil {
			_ = ioctl(f, nbdClearSock, 0)
			f.Close()
			return message.Errorf(nil, "failed to set the %s of %s: %w", s.what, c.Device, err)
		}
	}
	a.file = f
	go func() {
		defer close(a.done)
		defer f.Close()
		err := ioctl(f, nbdDoIt, 0)
		// EPIPE is what the kernel calls a proper end.
		if err != nil && !errors.Is(err, unix.EPIPE) {
			a.err = err
		}
		_ = ioctl(f, nbdClearQueue, 0)
		_ = ioctl(f, nbdClearSock, 0)
	}()
	return nil
}
