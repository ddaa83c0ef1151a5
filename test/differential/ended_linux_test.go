package differential

import (
	"errors"

	"golang.org/x/sys/unix"
)

// ended says whether a process has given back all that it held, its sockets too: its
// last thread has ended. It may still be waited for by its parent.
func ended(pid int) bool {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return errors.Is(err, unix.ESRCH)
	}
	defer unix.Close(fd)
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return err == nil && n == 1
}
