package nbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"

	"github.com/cowl-disk/cowl/block/driver"
)

// errUsedUp is returned where a connection is wanted after the one that was
// inherited.
var errUsedUp = errors.New("an inherited socket (server.type=fd) is one connection only, it cannot be made again")

// descriptor reads the number of a descriptor as the original does: as strtol, which
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

// dialInherited returns what makes the connection of the socket that this process was
// started with: once, later calls fail with errUsedUp.
func dialInherited(text string) func(context.Context, string, string) (net.Conn, error) {
	var once sync.Once
	return func(context.Context, string, string) (c net.Conn, err error) {
		err = errUsedUp
		once.Do(func() {
			var fd int
			if fd, err = descriptor(text); err != nil {
				return
			}
			if c, err = takeSocket(fd); errors.Is(err, errNoSocket) {
				err = driver.Errorf(driver.ErrInvalid, "File descriptor '%s' is not a socket", text)
			} else if err != nil {
				err = fmt.Errorf("File descriptor '%s': %w", text, err)
			}
		})
		return c, err
	}
}

// errNoSocket is what takeSocket says of a descriptor that is closed, or something
// else than a socket.
var errNoSocket = errors.New("not a socket")
