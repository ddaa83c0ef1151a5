//go:build !unix

package qemunbd

import (
	"net"

	"github.com/cowl-disk/cowl/nbd/kernel"
)

func socketPair() (a, b net.Conn, err error) { return nil, nil, kernel.ErrUnsupported }
