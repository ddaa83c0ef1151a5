package driver

import (
	"errors"
	"io/fs"
	"syscall"

	"github.com/cowl-disk/cowl/internal/message"
)

// Kinds of error. Drivers return them wrapped with what was being done;
// callers test with errors.Is.
var (
	ErrCorrupt     = errors.New("image is corrupt")
	ErrFormat      = errors.New("image is not in this format")
	ErrUnsupported = errors.New("operation not supported")
	ErrReadOnly    = errors.New("image is read-only")
	ErrBudget      = errors.New("limit for untrusted images exceeded")
	ErrGate        = errors.New("reference refused")
	ErrLocked      = errors.New("image is in use")
	ErrInvalid     = errors.New("invalid argument")
	ErrRange       = errors.New("beyond the end of the image")
	ErrNeedsRepair = errors.New("image needs repair")
	ErrNoSnapshot  = errors.New("no such snapshot")
	ErrBitmaps     = errors.New("image has bitmaps")
	ErrNoBitmap    = errors.New("no such bitmap")
	// ErrTruncated: bytes that an object was said to have are not there.
	ErrTruncated = errors.New("object is shorter than declared")
	// ErrForgotten: a server has lost what it had taken and nobody had flushed; written
	// again from the start, it can have it.
	ErrForgotten = errors.New("what was written is lost")
	// ErrNoDirectory: an image has no directory that relative names could be in.
	ErrNoDirectory = errors.New("no directory for relative names")
)

// Kinds that the system has, too. An error of the system is of the kind as it is, and
// what is made with the kind has the number of the system.
var (
	// ErrNoSpace: the file system, the device or the server is full, or a quota is.
	ErrNoSpace error = syscall.ENOSPC
	// ErrTooLarge: a size is beyond what the format, the file system or the server can have.
	ErrTooLarge error = syscall.EFBIG
	// ErrTimeout: a server does not answer in time.
	ErrTimeout error = syscall.ETIMEDOUT
	// ErrExists: what should be made is there already.
	ErrExists = fs.ErrExist
	// ErrNotExist: a file, an export or another object of a server is not there.
	ErrNotExist = fs.ErrNotExist
)

// Errorf makes an error that reads as the formatted message alone and that
// errors.Is recognises as kind. %w works as in fmt.Errorf. With a nil kind the error
// is only what %w wraps.
//
// The message is lower case, in the style of Go, and without a full stop. The command
// lines print it with a capital, or as internal/cli/words has it for the format; they
// see the format and the arguments, so an argument must not change.
func Errorf(kind error, format string, args ...any) error {
	return message.Errorf(kind, format, args...)
}

// Message is an error whose text is made of a format and arguments. An error type of
// a driver that users can see implements it, so that its text can be put into other words.
type Message = message.Message

// Text is the text of an error type that implements Message, for its method Error.
func Text(m Message) string { return message.Text(m) }
