//go:build !linux

package kernel

import "context"

// Attach attaches a connection to a device.
func Attach(context.Context, Config) (*Attachment, error) { return nil, ErrUnsupported }

// Detach detaches a device, whichever process attached it.
func Detach(context.Context, string) error { return ErrUnsupported }

// Detach detaches the device that Attach attached.
func (a *Attachment) Detach(context.Context) error { return ErrUnsupported }
