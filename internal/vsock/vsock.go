package vsock

import (
	"context"
	"net"
	"os"

	"github.com/mdlayher/vsock"
)

// Dial connects to "cid:port".
func Dial(ctx context.Context, address string) (net.Conn, error) {
	a, err := ParseAddr(address)
	if err != nil {
		return nil, err
	}
	c, err := vsock.DialContext(ctx, a.CID, a.Port, nil)
	if err != nil {
		return nil, err // not a nil *Conn in an interface
	}
	return c, nil
}

// Listen listens at "cid:port"; ":port" is for every peer.
func Listen(address string) (net.Listener, error) {
	a, err := ParseAddr(address)
	if err != nil {
		return nil, err
	}
	l, err := vsock.ListenContextID(a.CID, a.Port, nil)
	if err != nil {
		return nil, err
	}
	return l, nil
}

// FileListener makes a listener of a file that listens already, with a descriptor of
// its own: f stays the caller's.
func FileListener(f *os.File) (net.Listener, error) {
	l, err := vsock.FileListener(f)
	if err != nil {
		return nil, err
	}
	return l, nil
}
