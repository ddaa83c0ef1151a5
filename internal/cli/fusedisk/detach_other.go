//go:build darwin || freebsd

package fusedisk

import "errors"

func detach(string) error { return errors.ErrUnsupported }
