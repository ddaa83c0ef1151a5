package client

import (
	"errors"
	"fmt"
	"io"
	"syscall"

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

// ServerError is an error that the server reports for a request. It wraps Errno.
type ServerError struct {
	Command wire.Command
	Offset  uint64
	Errno   wire.Errno
	Message string // what the server adds, may be empty
}

func (e *ServerError) Error() string {
	if e.Message != "" {
		return fmt.Sprintf("%v (server reported: %s)", e.Errno, e.Message)
	}
	return e.Errno.Error()
}

// Unwrap returns the number of the error.
func (e *ServerError) Unwrap() error { return e.Errno }

// OptionError is the server's refusal of an option.
type OptionError struct {
	Option  wire.Option
	Reply   wire.OptionReply
	Message string // what the server adds, may be empty
}

func (e *OptionError) Error() string {
	about := fmt.Sprintf("option %d (%v)", uint32(e.Option), e.Option)
	switch e.Reply {
	case wire.RepErrUnsup:
		return "Unsupported " + about
	case wire.RepErrPolicy:
		return "Denied by server for " + about
	case wire.RepErrInvalid:
		return "Invalid parameters for " + about
	case wire.RepErrPlatform:
		return "Server lacks support for " + about
	case wire.RepErrTLSReqd:
		return "TLS negotiation required before " + about
	case wire.RepErrUnknown:
		return "Requested export not available"
	case wire.RepErrShutdown:
		return "Server shutting down before " + about
	case wire.RepErrBlockSizeReqd:
		return "Server requires INFO_BLOCK_SIZE for " + about
	}
	return "Unknown error code when asking for " + about
}

// ConnectError is a connection that could not be made: nothing was said yet.
type ConnectError struct{ Err error }

func (e *ConnectError) Error() string { return e.Err.Error() }

// Unwrap returns what the system said.
func (e *ConnectError) Unwrap() error { return e.Err }

// GreetingError is a connection on which the server's greeting does not come. Part
// says what was waited for: "initial magic" or "server flags".
type GreetingError struct {
	Part string
	Err  error
}

func (e *GreetingError) Error() string {
	if errors.Is(e.Err, io.ErrUnexpectedEOF) {
		return "Failed to read " + e.Part + ": Unexpected end-of-file before all data were read"
	}
	return "Failed to read " + e.Part + ": Unable to read from socket: " + systemError(e.Err).Error()
}

// Unwrap returns what was wrong with the connection.
func (e *GreetingError) Unwrap() error { return e.Err }

// systemError returns what the system said, or err if it did not say anything.
func systemError(err error) error {
	var no syscall.Errno
	if errors.As(err, &no) {
		return no
	}
	return err
}

// Report returns the error for people: with a hint and what the server adds, on lines
// of their own.
func (e *OptionError) Report() string {
	text := e.Error()
	if e.Reply == wire.RepErrTLSReqd {
		text += "\nDid you forget a valid tls-creds?"
	}
	if e.Message != "" {
		text += "\nserver reported: " + e.Message
	}
	return text
}

// refused says whether err is an option that the server does not have, or does not
// want to give, so that one goes on without. A server that wants TLS first says so
// again when the export is chosen.
func refused(err error) bool {
	var oe *OptionError
	return errors.As(err, &oe) && (oe.Reply == wire.RepErrUnsup || oe.Reply == wire.RepErrPolicy ||
		oe.Reply == wire.RepErrInvalid || oe.Reply == wire.RepErrPlatform || oe.Reply == wire.RepErrTLSReqd)
}
