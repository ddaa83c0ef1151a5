package nfs

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"syscall"

	"github.com/cowl-disk/cowl/internal/inet"
)

// Ports below 1024 that are tried, from lowPort on, before any other is taken.
const (
	lowPort  = 512
	lowPorts = 512
	lowTries = 8
)

// dialDefault connects over TCP. Servers may insist on a port below 1024 on the client's
// side: one is taken where the system lets this process.
func (cfg *Config) dialDefault(ctx context.Context, address string) (net.Conn, error) {
	list, err := inet.Addresses(ctx, "tcp", address)
	if err != nil {
		return nil, err
	}
	var nc net.Conn
	for _, a := range list {
		if nc, err = cfg.dialFrom(ctx, a); err == nil || ctx.Err() != nil {
			break
		}
	}
	return nc, err
}

func (cfg *Config) dialFrom(ctx context.Context, address string) (net.Conn, error) {
	d := net.Dialer{Control: cfg.control}
	if os.Geteuid() == 0 {
		for range lowTries {
			d.LocalAddr = &net.TCPAddr{Port: lowPort + rand.IntN(lowPorts)}
			nc, err := d.DialContext(ctx, "tcp", address)
			if err == nil || !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EACCES) {
				return nc, err
			}
		}
		d.LocalAddr = nil
	}
	return d.DialContext(ctx, "tcp", address)
}
