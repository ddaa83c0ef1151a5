//go:build !linux

package vsock

import (
	"context"
	"errors"
	"net"
)

var errNone = errors.New("vsock is not available on this system")

// Dial fails.
func Dial(context.Context, string) (net.Conn, error) { return nil, errNone }

// Listen fails.
func Listen(string) (net.Listener, error) { return nil, errNone }

// FileListener fails.
func FileListener(int) (net.Listener, error) { return nil, errNone }
