package inet

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// setLowWater has the system tell of bytes to read when there are so many, or the last ones.
func setLowWater(c net.Conn, n int) error {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return errors.ErrUnsupported
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVLOWAT, n)
	})
	return errors.Join(err, failed)
}
