package client

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"

	"github.com/cowl-disk/cowl/internal/message"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Errors of this package, to be found with errors.Is.
var (
	// ErrLost: the connection is gone; this and all later requests have failed. What
	// became of a write that was under way is not known.
	ErrLost = errors.New("connection to the NBD server lost")
	// ErrProtocol: the server does not keep to the protocol.
	ErrProtocol = errors.New("NBD server violates the protocol")
	// ErrUnsupported: the server has no such command.
	ErrUnsupported = errors.New("not supported by the NBD server")
)

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
}

// badGreeting is a violation in what the server says first.
func badGreeting(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrProtocol, message.Errorf(nil, format, args...))
}

// ServerError is an error that the server reports for a request. It wraps Errno.
type ServerError struct {
	Command wire.Command
	Offset  uint64
	Errno   wire.Errno
	Message string // what the server adds, may be empty
}

func (e *ServerError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *ServerError) Template() (string, []any) {
	if e.Message != "" {
		return "%v (server reported: %s)", []any{e.Errno, e.Message}
	}
	return "%v", []any{e.Errno}
}

// Unwrap returns the number of the error.
func (e *ServerError) Unwrap() error { return e.Errno }

// OptionError is the server's refusal of an option.
type OptionError struct {
	Option  wire.Option
	Reply   wire.OptionReply
	Message string // what the server adds, may be empty
}

func (e *OptionError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *OptionError) Template() (string, []any) {
	format, known := map[wire.OptionReply]string{
		wire.RepErrUnsup:         "unsupported option %d (%v)",
		wire.RepErrPolicy:        "denied by server for option %d (%v)",
		wire.RepErrInvalid:       "invalid parameters for option %d (%v)",
		wire.RepErrPlatform:      "server lacks support for option %d (%v)",
		wire.RepErrTLSReqd:       "TLS negotiation required before option %d (%v)",
		wire.RepErrShutdown:      "server shutting down before option %d (%v)",
		wire.RepErrBlockSizeReqd: "server requires INFO_BLOCK_SIZE for option %d (%v)",
	}[e.Reply]
	switch {
	case e.Reply == wire.RepErrUnknown:
		return "requested export not available", nil
	case !known:
		format = "unknown error code when asking for option %d (%v)"
	}
	return format, []any{uint32(e.Option), e.Option}
}

// Hint is what the server adds, and what to do.
func (e *OptionError) Hint() string {
	var lines []string
	if e.Reply == wire.RepErrTLSReqd {
		lines = append(lines, "Did you forget a valid tls-creds?")
	}
	if e.Message != "" {
		lines = append(lines, "server reported: "+e.Message)
	}
	return strings.Join(lines, "\n")
}

// ConnectError is a connection that could not be made.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *ConnectError) Template() (string, []any) { return "%v", []any{e.Err} }

// Unwrap returns the error of the system.
func (e *ConnectError) Unwrap() error { return e.Err }

// GreetingError is a connection on which the server's greeting does not come. Part
// is what was expected: "initial magic" or "server flags".
type GreetingError struct {
	Part string
	Err  error
}

func (e *GreetingError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *GreetingError) Template() (string, []any) {
	if errors.Is(e.Err, io.ErrUnexpectedEOF) {
		return "failed to read %s: unexpected end-of-file before all data were read", []any{e.Part}
	}
	return "failed to read %s: unable to read from socket: %v", []any{e.Part, systemError(e.Err)}
}

// Unwrap returns the error of the connection.
func (e *GreetingError) Unwrap() error { return e.Err }

// systemError returns the error number of the system within err, or err if it has none.
func systemError(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// refused says whether err is an option that the server does not have, or does not
// want to give, so that the client goes on without. A server that wants TLS first says so
// again when the export is chosen.
func refused(err error) bool {
	var oe *OptionError
	return errors.As(err, &oe) && (oe.Reply == wire.RepErrUnsup || oe.Reply == wire.RepErrPolicy ||
		oe.Reply == wire.RepErrInvalid || oe.Reply == wire.RepErrPlatform || oe.Reply == wire.RepErrTLSReqd)
}
