//go:build !linux

package inet

import (
	"errors"
	"net"
)

func setLowWater(net.Conn, int) error { return errors.ErrUnsupported }
