package block

import (
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

// OpenError says which image could not be opened. Path names it as the user or
// the parent image did.
type OpenError struct {
	Path string
	// Role is "" for the image itself, "file", "backing", "data-file" …
	Role string
	Err  error
}

func (e *OpenError) Error() string { return driver.Text(e) }
func (e *OpenError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *OpenError) Template() (string, []any) {
	switch e.Role {
	case "":
		return "could not open '%s': %v", []any{driver.HidePassword(e.Path), e.Err}
	case "backing":
		return "could not open backing file: %v", []any{e.Err}
	}
	// The protocol names the file that could not be opened.
	return "%v", []any{e.Err}
}

// IOError says where on an image an operation failed.
type IOError struct {
	Op     string // "read", "write", "flush" …
	Image  string
	Offset int64 // -1 if it has none
	Err    error
}

func (e *IOError) Error() string { return driver.Text(e) }
func (e *IOError) Unwrap() error { return e.Err }

// Template implements driver.Message.
func (e *IOError) Template() (string, []any) {
	if strings.HasPrefix(e.Err.Error(), fmt.Sprintf("could not %s '%s' at offset %d:", e.Op, e.Image, e.Offset)) {
		// The protocol said the same of the same place.
		return "%v", []any{e.Err}
	}
	if e.Offset < 0 {
		return "%s %s: %v", []any{e.Op, e.Image, e.Err}
	}
	return "%s %s at offset %d: %v", []any{e.Op, e.Image, e.Offset, e.Err}
}
