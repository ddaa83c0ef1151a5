package qemunbd

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/nbd/server"
)

// Environment variables by which a parent tells its child what it has opened for
// it: the pipe on which the child says that clients can connect, and a socket to
// listen on.
const (
	envReady  = "COWL_NBD_READY_FD"
	envListen = "COWL_NBD_LISTEN_FD"
)

// firstActivated is the first descriptor that a service manager hands over.
const firstActivated = 3

// activated says whether a service manager handed a socket over (sd_listen_fds).
func activated() (bool, error) {
	pid, err := strconv.Atoi(os.Getenv("LISTEN_PID"))
	if err != nil || pid != os.Getpid() {
		return false, nil
	}
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	switch {
	case err != nil || n < 1:
		return false, nil
	case n > 1:
		return false, fmt.Errorf("qemu-nbd does not support socket activation with LISTEN_FDS > 1")
	}
	return true, nil
}

// inherited returns the descriptor of a socket that this process was given, or -1.
func (s *settings) inherited() (int, error) {
	if fd, err := strconv.Atoi(os.Getenv(envListen)); err == nil {
		return fd, nil
	}
	ok, err := activated()
	if !ok || err != nil {
		return -1, err
	}
	switch {
	case s.connect != "":
		return -1, errors.New("NBD device can't be set when using socket activation")
	case s.socket != "":
		return -1, errors.New("Unix socket can't be set when using socket activation")
	case s.bind != "":
		return -1, errors.New("The interface can't be set when using socket activation")
	case s.hasPort:
		return -1, errors.New("TCP port number can't be set when using socket activation")
	}
	return firstActivated, nil
}

// listen opens what clients connect to.
func (p *Program) listen(s *settings) ([]net.Listener, error) {
	fd, err := s.inherited()
	if err != nil {
		return nil, err
	}
	switch {
	case fd == firstActivated:
		return server.Inherited()
	case fd >= 0:
		f := os.NewFile(uintptr(fd), "inherited socket")
		defer f.Close()
		l, err := net.FileListener(f)
		if err != nil {
			return nil, fmt.Errorf("Cannot listen on the inherited socket: %w", err)
		}
		return []net.Listener{l}, nil
	}
	if s.connect != "" && s.socket == "" {
		s.socket = "/var/lock/qemu-nbd-" + filepath.Base(s.connect)
	}
	if s.socket != "" {
		if err := inet.CheckSocketPath(s.socket); err != nil {
			return nil, err
		}
		if err := removeSocket(s.socket); err != nil {
			return nil, err
		}
		reset, err := socketLabel(s.selinux)
		if err != nil {
			return nil, err
		}
		list, err := server.Listen("unix", s.socket)
		if err := errors.Join(err, reset()); err != nil {
			closeAll(list)
			return nil, fmt.Errorf("Failed to bind socket to %s: %w", s.socket, cause(err))
		}
		return list, nil
	}
	bind := s.bind
	if bind == "" {
		bind = "0.0.0.0"
	}
	if _, err := net.LookupPort("tcp", s.port); err != nil || strings.HasPrefix(s.port, "-") {
		return nil, fmt.Errorf("address resolution failed for %s:%s: Servname not supported for ai_socktype", bind, s.port)
	}
	list, err := server.Listen("tcp", net.JoinHostPort(bind, s.port))
	if reason := inet.Reason(err); reason != "" {
		return nil, fmt.Errorf("address resolution failed for %s:%s: %s", bind, s.port, reason)
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("Failed to find an available port: %w", cause(err))
	case err != nil:
		return nil, fmt.Errorf("Failed to bind socket: %w", cause(err))
	}
	return list, nil
}

// removeSocket makes room for a socket where an earlier one was left. It removes
// nothing else, such as the disk that is to be served.
func removeSocket(path string) error {
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err == nil && st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("Failed to unlink socket %s: a file that is no socket has this name", path)
	case err == nil:
		err = os.Remove(path)
	}
	if err != nil {
		return fmt.Errorf("Failed to unlink socket %s: %w", path, cause(err))
	}
	return nil
}

// cause returns what a system call said.
func cause(err error) error {
	var sys *os.SyscallError
	if errors.As(err, &sys) {
		return sys.Err
	}
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}
