package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/kernel"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

const (
	// attachLimit bounds how long a device may take to come or to go.
	attachLimit = 30 * time.Second
	// attachConns is how many connections the kernel gets where it takes several.
	attachConns = 4
)

// attach connects a device of the kernel to the export, by connections of this
// process with itself.
func (p *Program) attach(ctx context.Context, s *settings, srv *server.Server, e *server.Export) (*kernel.Attachment, error) {
	ctx, stop := context.WithTimeout(ctx, attachLimit)
	defer stop()
	n := attachConns
	if s.attach == kernel.Ioctl {
		n = 1
	}
	cfg := kernel.Config{Device: s.connect, Method: s.attach}
	var ends []net.Conn
	defer func() {
		for _, f := range cfg.Conns {
			f.Close()
		}
		for _, c := range ends {
			c.Close()
		}
	}()
	for range n {
		ours, theirs, err := socketPair()
		if err != nil {
			return nil, err
		}
		go func() { _ = srv.ServeConn(context.WithoutCancel(ctx), ours) }()
		conn, info, err := client.Negotiate(ctx, client.Config{Export: e.Name, MaxMode: client.ModeSimple,
			Dial: func(context.Context, string, string) (net.Conn, error) { return theirs, nil }})
		if err != nil {
			return nil, err
		}
		ends = append(ends, conn)
		f, err := conn.(*net.UnixConn).File()
		if err != nil {
			return nil, err
		}
		cfg.Conns, cfg.Size = append(cfg.Conns, f), info.Size
		// All of them end in one image in this process.
		cfg.Flags = uint16(info.Flags | wire.FlagCanMultiConn)
	}
	a, err := kernel.Attach(ctx, cfg)
	if err != nil && s.attach == kernel.Auto && errors.Is(err, kernel.ErrOneConn) {
		cfg.Conns = cfg.Conns[:1]
		a, err = kernel.Attach(ctx, cfg)
	}
	return a, err
}

// disconnect detaches a device of the kernel.
func (p *Program) disconnect(ctx context.Context, device string) error {
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("Cannot open %s: %w", device, cause(err))
	}
	ctx, stop := context.WithTimeout(ctx, attachLimit)
	defer stop()
	if err := kernel.Detach(ctx, device); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return fmt.Errorf("%s is still in use after %v: unmount what is on it", device, attachLimit)
		}
		return err
	}
	fmt.Fprintf(p.Stdout, "%s disconnected\n", device)
	return nil
}
