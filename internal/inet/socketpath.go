package inet

import (
	"fmt"
	"runtime"
)

// SocketPathError says that the path of a Unix socket does not fit into the address
// of a socket.
type SocketPathError struct {
	Path string
	Max  int // bytes that a path must have less than
}

func (e *SocketPathError) Error() string {
	return fmt.Sprintf("UNIX socket path '%s' is too long", e.Path)
}

// Hint says what to do.
func (e *SocketPathError) Hint() string { return fmt.Sprintf("Path must be less than %d bytes", e.Max) }

// CheckSocketPath returns a *SocketPathError if path is too long for a socket of this
// system, which would call it an invalid argument.
func CheckSocketPath(path string) error {
	limit := 108 // sun_path of Linux and Windows
	switch runtime.GOOS {
	case "darwin", "freebsd", "netbsd", "openbsd", "dragonfly":
		limit = 104
	}
	if len(path) >= limit {
		return &SocketPathError{Path: path, Max: limit}
	}
	return nil
}
