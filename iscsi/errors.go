package iscsi

import (
	"errors"

	"github.com/cowl-disk/cowl/internal/message"
)

var (
	// ErrProtocol: what the target sent makes no sense.
	ErrProtocol = errors.New("the target violates the protocol")
	// ErrLost: the connection to the target is lost, and could not be made again in time.
	ErrLost = errors.New("the connection to the target is lost")
	// ErrTimeout: the target does not answer in time. It comes with ErrLost.
	ErrTimeout = errors.New("the target does not answer in time")
	// ErrClosed: the session was closed.
	ErrClosed = errors.New("the session is closed")
	// ErrUnverified: the target did not prove that it knows the secret of Config.TargetCHAP.
	ErrUnverified = errors.New("the target is not the one that it should be")
)

func protocolError(format string, args ...any) error {
	return message.Errorf(ErrProtocol, format, args...)
}

// lost makes the error of a connection that ended because of err.
func lost(err error) error {
	if errors.Is(err, ErrLost) {
		return err
	}
	return message.Errorf(ErrLost, "the connection to the target is lost: %w", err)
}

// LoginError is the refusal of a login (RFC 7143, 11.13.5).
type LoginError struct {
	Class, Detail byte // 2: it is about the initiator; 3: about the target
}

// Status is class and detail in one number.
func (e *LoginError) Status() int { return int(e.Class)<<8 | int(e.Detail) }

var loginStatus = map[int]string{
	0x0200: "initiator error",
	0x0201: "authentication failure",
	0x0202: "authorization failure",
	0x0203: "target not found",
	0x0204: "target removed",
	0x0205: "unsupported version",
	0x0206: "too many connections",
	0x0207: "missing parameter",
	0x0208: "can't include in session",
	0x0209: "session type not supported",
	0x020a: "session does not exist",
	0x020b: "invalid during login",
	0x0300: "target error",
	0x0301: "service unavailable",
	0x0302: "out of resources",
}

func (e *LoginError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *LoginError) Template() (string, []any) {
	text := loginStatus[e.Status()]
	if text == "" {
		text = "unknown status"
	}
	return "failed to log in to target: %s (status %d)", []any{text, e.Status()}
}

// ConnectError says that no connection to a portal could be made.
type ConnectError struct {
	Address string
	Err     error
}

func (e *ConnectError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *ConnectError) Template() (string, []any) {
	return "failed to connect to '%s': %v", []any{e.Address, e.Err}
}

// Unwrap returns the reason.
func (e *ConnectError) Unwrap() error { return e.Err }

// Statuses of commands (SAM-5, 5.3).
const (
	StatusGood        = 0x00
	StatusCheck       = 0x02
	StatusBusy        = 0x08
	StatusReservation = 0x18
	StatusTaskSetFull = 0x28
	StatusTaskAborted = 0x40
)

// StatusError is the status of a command that is neither good nor has sense data.
type StatusError struct {
	Status byte
}

var statusNames = map[byte]string{StatusCheck: "CHECK CONDITION", StatusBusy: "BUSY", StatusReservation: "RESERVATION CONFLICT",
	StatusTaskSetFull: "TASK SET FULL", StatusTaskAborted: "TASK ABORTED"}

func (e *StatusError) Error() string { return message.Text(e) }

// Template implements message.Message.
func (e *StatusError) Template() (string, []any) {
	name := statusNames[e.Status]
	if name == "" {
		name = "unknown"
	}
	return "the target answers with the status %s (%#02x)", []any{name, e.Status}
}

// passing says whether the status may be another one later.
func (e *StatusError) passing() bool {
	return e.Status == StatusBusy || e.Status == StatusTaskSetFull || e.Status == StatusTaskAborted
}
