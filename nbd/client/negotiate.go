package client

import (
	"context"
	"errors"
	"net"
)

// Negotiate connects to a server, chooses an export with simple replies, and returns
// the connection at the beginning of the transmission phase, for another user
// of it, such as a kernel. cfg.MaxMode and cfg.Contexts are not used.
func Negotiate(ctx context.Context, cfg Config) (net.Conn, Info, error) {
	cfg.MaxMode, cfg.Contexts = ModeSimple, nil
	var nc net.Conn
	var info Info
	err := cfg.negotiate(ctx, func(h *handshake) (err error) {
		if info, _, err = h.choose(cfg.Export, nil); err != nil {
			return err
		}
		if h.br.Buffered() > 0 {
			return errors.New("the NBD server sends data before it is asked for any")
		}
		nc = h.nc
		return nil
	})
	return nc, info, err
}
