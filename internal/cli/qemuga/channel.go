package qemuga

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/cowl-disk/cowl/guestagent"
	"github.com/cowl-disk/cowl/internal/vsock"
)

// channel is where requests come from.
type channel interface {
	// serve answers requests until the channel is closed or fails.
	serve(ctx context.Context, agent *guestagent.Agent) error
	// close ends serve. It may be called several times.
	close()
}

// firstInherited is the first descriptor of sockets from the service manager.
const firstInherited = 3

// openChannel opens a channel. The errors are what QEMU reports one after the other.
func openChannel(method, path string, inherited bool) (channel, []error) {
	var ch channel
	var err error
	switch method {
	case "virtio-serial":
		ch, err = openVirtio(path)
	case "isa-serial":
		ch, err = openSerial(path)
	case "unix-listen":
		ch, err = listenUnix(path, inherited)
	case "vsock-listen":
		ch, err = listenVsock(path, inherited)
	default:
		return nil, []error{fmt.Errorf("unsupported channel method/type: %s", method)}
	}
	if err != nil {
		return nil, []error{err, errors.New("failed to create guest agent channel")}
	}
	return ch, nil
}

// listener serves the clients of a socket, one after the other.
type listener struct {
	l      net.Listener
	mu     sync.Mutex
	client net.Conn
	closed bool
}

func listenUnix(path string, inherited bool) (channel, error) {
	if inherited {
		l, err := net.FileListener(os.NewFile(firstInherited, "socket"))
		if err != nil {
			return nil, err
		}
		return &listener{l: l}, nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("Failed to unlink socket %s: %w", path, guestagent.Cause(err))
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("Failed to bind socket to %s: %w", path, guestagent.Words(err))
	}
	// QEMU leaves the socket behind.
	l.SetUnlinkOnClose(false)
	return &listener{l: l}, nil
}

func listenVsock(path string, inherited bool) (channel, error) {
	var l net.Listener
	var err error
	if inherited {
		f := os.NewFile(firstInherited, "inherited socket")
		l, err = vsock.FileListener(f)
		f.Close()
	} else {
		l, err = vsock.Listen(path)
	}
	if err != nil {
		return nil, fmt.Errorf("Failed to bind socket: %w", guestagent.Words(err))
	}
	return &listener{l: l}, nil
}

func (l *listener) serve(ctx context.Context, agent *guestagent.Agent) error {
	for {
		client, err := l.l.Accept()
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.client = client
		closed := l.closed
		l.mu.Unlock()
		if !closed {
			// What one client does wrong does not concern the next.
			_ = agent.Serve(ctx, client)
		}
		client.Close()
	}
}

func (l *listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.l.Close()
	if l.client != nil {
		l.client.Close()
	}
}

// stream is a device that carries one client.
type stream struct{ f io.ReadWriteCloser }

func (s *stream) serve(ctx context.Context, agent *guestagent.Agent) error {
	err := agent.Serve(ctx, s.f)
	if err == nil {
		err = io.EOF
	}
	return err
}

func (s *stream) close() { s.f.Close() }
