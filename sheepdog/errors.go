package sheepdog

import (
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/internal/message"
)

var (
	// ErrProtocol: what the server sent makes no sense.
	ErrProtocol = errors.New("the server violates the protocol")
	// ErrLost: the connection to the server is lost, and could not be made again in time.
	ErrLost = errors.New("the connection to the server is lost")
	// ErrTimeout: the server does not answer in time. It comes with ErrLost.
	ErrTimeout = errors.New("the server does not answer in time")
	// ErrClosed: the client was closed.
	ErrClosed = errors.New("the client is closed")
	// ErrTree: the VDI has an index that is a tree.
	ErrTree = errors.New("the VDI is a hyper volume, whose index is a tree")
	// ErrSnapshot: the VDI is a snapshot, of which there can be none.
	ErrSnapshot = errors.New("the VDI is a snapshot")
)

func protocolError(format string, args ...any) error {
	return message.Errorf(ErrProtocol, format, args...)
}

// Result is the result in an answer, and the error that it stands for.
type Result uint32

// The results.
const (
	Success       Result = 0x00
	NoObject      Result = 0x02
	IOError       Result = 0x03
	VDIExists     Result = 0x04
	InvalidParams Result = 0x05
	VDILocked     Result = 0x07
	NoVDI         Result = 0x08
	NoBaseVDI     Result = 0x09
	NoTag         Result = 0x0e
	Startup       Result = 0x0f
	NotLocked     Result = 0x10
	Shutdown      Result = 0x11
	NoSpace       Result = 0x15
	WaitForFormat Result = 0x16
	WaitForJoin   Result = 0x17
	Halt          Result = 0x19
	ReadOnly      Result = 0x1a
)

var resultTexts = map[Result]string{
	0x01: "unknown error", NoObject: "no object found", IOError: "I/O error", VDIExists: "VDI exists already",
	InvalidParams: "invalid parameters", 0x06: "system error", VDILocked: "VDI is already locked", NoVDI: "no vdi found",
	NoBaseVDI: "no base VDI found", 0x0a: "failed to read the requested VDI", 0x0b: "failed to write the requested VDI",
	0x0c: "failed to read the base VDI", 0x0d: "failed to write the base VDI", NoTag: "failed to find the requested tag",
	Startup: "the system is still booting", NotLocked: "VDI isn't locked", Shutdown: "the system is shutting down",
	0x12: "out of memory on the server", 0x13: "the cluster has as many VDIs as it can", 0x14: "protocol version mismatch",
	NoSpace: "server has no space for new objects", WaitForFormat: "sheepdog is waiting for a format operation",
	WaitForJoin: "sheepdog is waiting for other nodes joining", 0x18: "target node had failed to join sheepdog",
	Halt: "sheepdog is stopped serving IO request", ReadOnly: "object is read-only",
}

func (r Result) Error() string {
	if s := resultTexts[r]; s != "" {
		return s
	}
	return fmt.Sprintf("result %#x, which is not known", uint32(r))
}

// passing says whether the result may be another one soon: the cluster begins, ends or has
// lost servers.
func (r Result) passing() bool {
	return r == Startup || r == Shutdown || r == WaitForJoin || r == Halt
}

// lost makes the error of a connection that ended because of err.
func lost(err error) error {
	if errors.Is(err, ErrLost) || errors.Is(err, ErrProtocol) {
		return err
	}
	return message.Errorf(ErrLost, "the connection to the server is lost: %w", err)
}
