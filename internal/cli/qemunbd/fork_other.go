//go:build !unix

package qemunbd

import (
	"context"
	"errors"
)

func isChild() bool { return false }

func childReady() (func(), error) { return func() {}, nil }

func (p *Program) daemonize(context.Context, []string) (int, error) {
	return 0, errors.New("--fork is not supported on this system")
}
