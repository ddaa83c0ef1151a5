package block

import (
	"fmt"
	"strings"
)

// OpenError says which image could not be opened. Path names it as the user or
// the parent image did.
type OpenError struct {
	Path string
	// Role is "" for the image itself, "file", "backing", "data-file" …
	Role string
	Err  error
}

func (e *OpenError) Error() string {
	switch e.Role {
	case "backing":
		return fmt.Sprintf("Could not open backing file: %v", e.Err)
	case "":
	default:
		// The file that could not be opened is named by its protocol.
		return e.Err.Error()
	}
	return fmt.Sprintf("Could not open '%s': %v", e.Path, e.Err)
}

func (e *OpenError) Unwrap() error { return e.Err }

// CreateError says which image could not be created.
type CreateError struct {
	Path string
	Err  error
}

func (e *CreateError) Error() string { return fmt.Sprintf("Could not create '%s': %v", e.Path, e.Err) }
func (e *CreateError) Unwrap() error { return e.Err }

// IOError says where on an image an operation failed.
type IOError struct {
	Op     string // "read", "write", "flush" …
	Image  string
	Offset int64 // -1 if it has none
	Err    error
}

func (e *IOError) Error() string {
	if inner := e.Err.Error(); strings.HasPrefix(inner, fmt.Sprintf("Could not %s '%s' at offset %d:", e.Op, e.Image, e.Offset)) {
		// The protocol said the same of the same place.
		return inner
	}
	if e.Offset < 0 {
		return fmt.Sprintf("%s %s: %v", e.Op, e.Image, e.Err)
	}
	return fmt.Sprintf("%s %s at offset %d: %v", e.Op, e.Image, e.Offset, e.Err)
}

func (e *IOError) Unwrap() error { return e.Err }
