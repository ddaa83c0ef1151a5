package server

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"

	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/internal/vsock"
)

// firstInherited is the descriptor of the first inherited socket.
const firstInherited = 3

// Inherited returns the listening sockets that a service manager has opened for
// this process (LISTEN_PID and LISTEN_FDS of sd_listen_fds(3)); none if it has not.
// It takes the variables out of the environment, so that children do not take the
// sockets for theirs.
func Inherited() ([]net.Listener, error) {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	if pid == "" || fds == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > 1024 {
		return nil, fmt.Errorf("LISTEN_FDS is '%s'", fds)
	}
	var list []net.Listener
	for fd := firstInherited; fd < firstInherited+n; fd++ {
		l, err := inherit(fd)
		if err != nil {
			for _, l := range list {
				l.Close()
			}
			return nil, fmt.Errorf("inherited socket %d: %w", fd, err)
		}
		list = append(list, l)
	}
	return list, nil
}

func inherit(fd int) (net.Listener, error) {
	f := os.NewFile(uintptr(fd), "socket")
	l, err := net.FileListener(f) // of a copy
	if err == nil {
		f.Close()
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // the file is the service manager's
		}
		return l, nil
	}
	if v, verr := vsock.FileListener(f); verr == nil {
		f.Close()
		return v, nil
	}
	return nil, err
}

// Listen listens at an address of the network "unix", "tcp", "tcp4", "tcp6" or "vsock".
// A host name may have several addresses: the list has a listener for each that can be
// had, and at least one if the error is nil. All have the same port, where it can be had
// at each, also if that asked for is 0. The file of a Unix socket is removed when its
// listener is closed, unless another socket has taken its place.
func Listen(network, address string) ([]net.Listener, error) {
	var l net.Listener
	var err error
	switch network {
	case "tcp", "tcp4", "tcp6":
		return listenTCP(network, address)
	case "vsock":
		l, err = vsock.Listen(address)
	case "unix":
		l, err = listenUnix(address)
	default:
		err = net.UnknownNetworkError(network)
	}
	if err != nil {
		return nil, err
	}
	return []net.Listener{l}, nil
}

// portAttempts bounds the search for a port that is free at all addresses.
const portAttempts = 16

func listenTCP(network, address string) ([]net.Listener, error) {
	addresses, err := inet.Addresses(context.Background(), network, address)
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(address)
	for attempt := 1; ; attempt++ {
		list, err := listenEach(network, addresses)
		if len(list) == len(addresses) || port != "0" && port != "" || attempt == portAttempts {
			return list, err
		}
		for _, l := range list {
			l.Close() // any port will do, so look for one that is free at the others, too
		}
	}
}

// listenEach listens at those of addresses where it can, at the port that the first of
// them has. The error, if there are none, is the last one: on a system without IPv6 the first
// one is about the IPv6 loopback address.
func listenEach(network string, addresses []string) (list []net.Listener, err error) {
	for _, a := range addresses {
		if len(list) > 0 {
			if host, _, err := net.SplitHostPort(a); err == nil {
				a = net.JoinHostPort(host, strconv.Itoa(list[0].Addr().(*net.TCPAddr).Port))
			}
		}
		l, lerr := net.Listen(family(network, a), a)
		if lerr != nil {
			err = lerr
			continue
		}
		list = append(list, l)
	}
	if len(list) > 0 {
		return list, nil
	}
	return nil, err
}

// family returns the network for one address: net.Listen would take 0.0.0.0 of "tcp" for
// all addresses of IPv6, too.
func family(network, address string) string {
	if ap, err := netip.ParseAddrPort(address); err == nil && ap.Addr().Is4() {
		return "tcp4"
	}
	return network
}

// unixListener removes the file of its socket, and no other of that name: a server
// that is still ending must not make the next one unreachable.
type unixListener struct {
	*net.UnixListener
	path string
	file os.FileInfo
}

func listenUnix(path string) (net.Listener, error) {
	if err := inet.CheckSocketPath(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if len(path) > 0 && path[0] == '@' || path == "" {
		return l, nil // it has no file
	}
	l.SetUnlinkOnClose(false)
	file, err := os.Lstat(path)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &unixListener{l, path, file}, nil
}

// Close ends the listener. The file is removed first, so that another server can listen as soon as it is gone.
func (l *unixListener) Close() error {
	if now, err := os.Lstat(l.path); err == nil && os.SameFile(now, l.file) {
		_ = os.Remove(l.path)
	}
	return l.UnixListener.Close()
}
