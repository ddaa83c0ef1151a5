// Package keys has what creating, opening and amending an encrypted image share:
// passphrases, the area of a LUKS header in the file, and kinds of errors.
package keys

import (
	"bytes"
	"context"
	"errors"
	"io"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
)

// kinds are the kinds of error of the luks package, and ours.
var kinds = []struct{ theirs, ours error }{
	{luks.ErrFormat, driver.ErrCorrupt}, {luks.ErrCorrupt, driver.ErrCorrupt}, {luks.ErrUnsupported, driver.ErrUnsupported},
	{luks.ErrLimit, driver.ErrBudget}, {luks.ErrInvalid, driver.ErrInvalid}, {luks.ErrPassphrase, driver.ErrInvalid}, {luks.ErrLastKey, driver.ErrInvalid},
}

// Error gives an error of the luks package the kind that it has here.
func Error(err error) error {
	for _, k := range kinds {
		if errors.Is(err, k.theirs) {
			return driver.Errorf(k.ours, "%w", err)
		}
	}
	return err
}

// ErrRequired is what every use of an encrypted disk without a key ends with.
func ErrRequired() error {
	return driver.Errorf(driver.ErrInvalid, "parameter 'encrypt.key-secret' is required for cipher")
}

// Passphrase returns a secret, which must be a text.
func Passphrase(objects driver.Objects, id string) ([]byte, error) {
	env := driver.Env{Objects: objects}
	secret, err := env.Secret(id)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(secret) || bytes.IndexByte(secret, 0) >= 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "data from secret %s is not valid UTF-8", id)
	}
	return secret, nil
}

// Area is the room of a LUKS header in a file, for package luks.
type Area struct {
	file   driver.Storage
	off, n int64
}

// NewArea returns the area of n bytes at off of the file.
func NewArea(file driver.Storage, off, n int64) *Area { return &Area{file, off, n} }

// ReadAt reads within the area; beyond its end there is io.EOF.
func (a *Area) ReadAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off >= a.n {
		return 0, io.EOF
	}
	short := int64(len(p)) > a.n-off
	n, err := a.file.ReadAt(ctx, p[:min(int64(len(p)), a.n-off)], a.off+off)
	if err == nil && short {
		err = io.EOF
	}
	return n, err
}

// WriteAt writes within the area, and fails beyond its end.
func (a *Area) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if off < 0 || off > a.n || int64(len(p)) > a.n-off {
		return 0, driver.Errorf(driver.ErrRange, "request for data outside of extension header")
	}
	return a.file.WriteAt(ctx, p, a.off+off)
}

// Flush makes what was written durable: the luks package asks for it.
func (a *Area) Flush(ctx context.Context) error { return a.file.Flush(ctx) }
