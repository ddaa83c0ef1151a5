//go:build amd64 || arm64

package main

import (
	"errors"
	"io"
	"os/signal"
	"syscall"

	"github.com/cowl-disk/cowl/internal/native/ceph"
	"github.com/cowl-disk/cowl/internal/native/gfapi"
	"github.com/cowl-disk/cowl/internal/native/serve"
)

// serveEngine answers cowl until it has what it wants, or is gone.
func serveEngine(name string) error {
	engine := ceph.New()
	if name == "gluster" {
		engine = gfapi.New()
	}
	// A terminal sends them to both programs: cowl says what becomes of this one.
	signal.Ignore(syscall.SIGINT, syscall.SIGQUIT, syscall.SIGHUP)
	ends, err := serve.Inherited()
	if err != nil {
		return errors.New("cowl has to start this program")
	}
	if err := serve.Run(ends, engine); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
