package sockaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/inet"
)

// ErrUsedUp is returned where a connection is wanted after the one that was inherited.
var ErrUsedUp = errors.New("an inherited socket (server.type=fd) is one connection only, it cannot be made again")

// errNoSocket is what takeSocket says of a descriptor that is closed, or something
// else than a socket.
var errNoSocket = errors.New("not a socket")

// Dial connects. ctx bounds the attempt, not the connection. A socket that this process
// was started with is taken once: later calls fail with ErrUsedUp. Dial may be called
// concurrently. Error words what it returns.
func (e *Endpoint) Dial(ctx context.Context) (net.Conn, error) {
	switch e.Network {
	case "fd":
		return e.inherited()
	case "unix":
		if err := inet.CheckSocketPath(e.Address); err != nil {
			return nil, err
		}
	}
	return inet.Dial(ctx, e.Network, e.Address)
}

func (e *Endpoint) inherited() (net.Conn, error) {
	if !e.taken.CompareAndSwap(false, true) {
		return nil, ErrUsedUp
	}
	fd, err := descriptor(e.Address)
	if err != nil {
		return nil, err
	}
	c, err := takeSocket(fd)
	switch {
	case errors.Is(err, errNoSocket):
		return nil, driver.Errorf(driver.ErrInvalid, "File descriptor '%s' is not a socket", e.Address)
	case err != nil:
		return nil, fmt.Errorf("File descriptor '%s': %w", e.Address, err)
	}
	return c, nil
}

// descriptor reads the number of a descriptor as QEMU does: as strtol, which
// takes leading white space and a sign.
func descriptor(text string) (int, error) {
	digits := strings.TrimLeft(text, " \t\n\v\f\r")
	unsigned := strings.TrimPrefix(strings.TrimPrefix(digits, "+"), "-")
	if unsigned == "" || strings.Trim(unsigned, "0123456789") != "" || len(digits)-len(unsigned) > 1 {
		return 0, driver.Errorf(driver.ErrInvalid, "Unable to parse FD number %s", text)
	}
	fd, err := strconv.ParseInt(digits, 10, 32)
	if err != nil {
		return 0, driver.Errorf(driver.ErrInvalid, "Unable to parse FD number %s: Numerical result out of range", text)
	}
	return int(fd), nil
}

// errnoOf returns the error number of the system in an error, nil if there is none.
func errnoOf(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return nil
}
