//go:build !unix

package sockaddr

import (
	"net"

	"github.com/cowl-disk/cowl/block/driver"
)

func takeSocket(int) (net.Conn, error) {
	return nil, driver.Errorf(driver.ErrUnsupported, "sockets are not inherited by number on this system")
}
