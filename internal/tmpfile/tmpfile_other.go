//go:build !linux

package tmpfile

import "errors"

func create(string, string) *File { return nil }

func (f *File) link(string) error { return errors.ErrUnsupported }
