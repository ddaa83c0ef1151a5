package driver

import (
	"errors"
	"fmt"
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
	ErrTruncated = errors.New("object is shorter than it was said to be")
)

// kindError has a message of its own and a kind that errors.Is finds.
type kindError struct {
	kind error
	err  error
}

func (e *kindError) Error() string   { return e.err.Error() }
func (e *kindError) Unwrap() []error { return []error{e.kind, e.err} }

// Errorf makes an error that reads as the formatted message alone and that
// errors.Is recognises as kind. %w works as in fmt.Errorf.
func Errorf(kind error, format string, args ...any) error {
	return &kindError{kind: kind, err: fmt.Errorf(format, args...)}
}
