package inet

import (
	"context"
	"net"

	"github.com/cowl-disk/cowl/internal/vsock"
)

// socketBuffer is the size in bytes for sending over a Unix socket: the system's own
// holds less than one large write.
const socketBuffer = 512 << 10

// Dial connects to address on a network: "tcp", "tcp4" and "tcp6" with "host:port",
// "unix" with a path, "vsock" with "cid:port". All addresses of a host are tried in turn.
// ctx bounds the attempt, not the connection.
func Dial(ctx context.Context, network, address string) (nc net.Conn, err error) {
	if network == "vsock" {
		return vsock.Dial(ctx, address)
	}
	addresses := []string{address}
	if network != "unix" {
		addresses = Loopback(network, address)
	}
	var d net.Dialer
	for _, a := range addresses {
		if nc, err = d.DialContext(ctx, network, a); err == nil || ctx.Err() != nil {
			break
		}
	}
	if u, ok := nc.(*net.UnixConn); ok {
		_ = u.SetWriteBuffer(socketBuffer)
	}
	return nc, err
}
