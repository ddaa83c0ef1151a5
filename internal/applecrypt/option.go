package applecrypt

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// Options are the options for opening of formats that may be encrypted.
type Options struct {
	KeySecret *string `opt:"key-secret" help:"ID of the secret that provides the passphrase of an encrypted image"`
}

// Keys finds the keys of an image whose header is in file; nil if it is not encrypted.
func (o *Options) Keys(ctx context.Context, file driver.Storage, env *driver.Env) (*Keys, error) {
	version := 0
	if file != nil {
		var err error
		if version, err = Version(ctx, file); err != nil {
			return nil, err
		}
	}
	switch {
	case version == 0 && o.KeySecret != nil:
		return nil, driver.Errorf(driver.ErrInvalid, "'key-secret' is given, but the image is not encrypted")
	case version == 0:
		return nil, nil
	case o.KeySecret == nil:
		return nil, driver.Errorf(driver.ErrInvalid, "the image is encrypted: parameter 'key-secret' is required")
	}
	passphrase, err := env.Secret(*o.KeySecret)
	if err != nil {
		return nil, err
	}
	return Unlock(ctx, file, passphrase)
}

// Open returns the bytes of an image, for reading: those of the file, or what its keys decrypt.
func (o *Options) Open(ctx context.Context, req *driver.OpenRequest) (file driver.Storage, encrypted bool, err error) {
	if req.Access.Write {
		return nil, false, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	keys, err := o.Keys(ctx, req.File, req.Env)
	if keys == nil || err != nil {
		return req.File, false, err
	}
	s, err := keys.Whole(req.File)
	if err != nil {
		return nil, true, err
	}
	return s, true, nil
}
