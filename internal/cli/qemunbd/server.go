package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/imageopt"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

// drainLimit is how long clients may take to read the answers to what they have
// asked for when the server is told to end.
const drainLimit = 30 * time.Second

// hurriedDrain is the same where the image is on a server and somebody at a terminal waits for
// the end: the rest of the second is for writing to the server what clients have written.
const hurriedDrain = 200 * time.Millisecond

// goneLimit is how long a device may take to go once the kernel has closed its
// connections.
const goneLimit = 2 * time.Second

// clients returns how many clients may come to the sockets at a time, 0 for any
// number, and whether none may: a device of the kernel counts as one.
func (s *settings) clients() (n int, none bool) {
	if s.connect == "" || s.shared == 0 {
		return s.shared, false
	}
	return s.shared - 1, s.shared == 1
}

// runServer serves an image until it is told to end.
func (p *Program) runServer(ctx context.Context, s *settings, name string, args []string) int {
	if _, err := s.inherited(); err != nil {
		return p.fail(err)
	}
	if (s.fork || s.connect != "" && !s.verbose) && !isChild() {
		code, err := p.daemonize(ctx, args)
		if err != nil {
			return p.fail(err)
		}
		return code
	}
	program.EndsOrderly(ctx)
	ready, err := childReady()
	if err != nil {
		return p.fail(err)
	}
	if err := p.serve(ctx, s, name, ready); err != nil {
		return p.fail(err)
	}
	return 0
}

// serve opens the image, listens, says that it is ready, and serves.
func (p *Program) serve(ctx context.Context, s *settings, name string, ready func()) (err error) {
	clients, none := s.clients()
	cfg := server.Config{MaxClients: clients, HandshakeTimeout: s.handshake, Log: slog.New(complaints{p})}
	if err := p.setTLS(s, &cfg); err != nil {
		return err
	}
	listeners, err := p.listen(s)
	if err != nil {
		return err
	}
	defer closeAll(listeners)
	// What is opened here must be closed in an orderly way whatever ctx does.
	work := context.WithoutCancel(ctx)
	img, err := p.open(ctx, s, name)
	if err != nil {
		return err
	}
	over := make(chan struct{})
	defer close(over)
	defer func() { err = errors.Join(err, img.Close(work)) }()
	if imageopt.Served(img) {
		imageopt.AfterStop(ctx, over, func() { p.giveUp(img.Writable()) })
	}
	dev, err := p.device(ctx, s, img)
	if err != nil {
		return err
	}
	last := make(chan struct{})
	var once sync.Once
	cfg.ClientGone = func(negotiated bool, left int) {
		if negotiated && left == 0 && !s.persistent {
			once.Do(func() { close(last) })
		}
	}
	srv := server.New(cfg)
	e := &server.Export{Name: s.name, Description: s.description, Device: dev, ReadOnly: s.readOnly, MultiConn: s.shared != 1}
	if err := srv.AddExport(e); err != nil {
		return err
	}
	if s.pidFile != "" {
		if err := writePID(s.pidFile); err != nil {
			return err
		}
	}
	failed := make(chan error, len(listeners))
	for _, l := range listeners {
		if none {
			break // they wait to be accepted
		}
		go func() {
			if err := srv.Serve(work, l); !errors.Is(err, server.ErrClosed) {
				failed <- err
			}
		}()
	}
	detach := func() error { return nil }
	var detached <-chan struct{}
	if s.connect != "" {
		a, err := p.attach(ctx, s, srv, e)
		if err != nil {
			return errors.Join(err, shutdown(work, srv, drainLimit))
		}
		detached = a.Done()
		detach = func() error {
			ctx, stop := context.WithTimeout(work, drainLimit)
			defer stop()
			return a.Detach(ctx)
		}
		if s.verbose {
			fmt.Fprintf(p.Stderr, "NBD device %s is now connected to %s\n", s.connect, name)
		}
	}
	ready()
	select {
	case <-ctx.Done():
	case <-last:
		if s.connect != "" {
			// That was the kernel: it is about to let the device go.
			select {
			case <-detached:
			case <-time.After(goneLimit):
			}
		}
	case <-detached:
	case err = <-failed:
	}
	limit := drainLimit
	if program.Interrupted(ctx) && imageopt.Served(img) {
		limit = hurriedDrain
	}
	// The device goes before what it reads from.
	return errors.Join(err, detach(), shutdown(work, srv, limit))
}

// giveUp ends the process after it was told to end: the server of the image does not answer.
func (p *Program) giveUp(writable bool) {
	loss := ""
	if writable {
		loss = ": what clients wrote last may be lost"
	}
	fmt.Fprintf(p.Stderr, "%s: Interrupted; no answer in time%s\n", p.Name, loss)
	os.Exit(1)
}

// shutdown ends the server; clients have limit to read their answers.
func shutdown(ctx context.Context, srv *server.Server, limit time.Duration) error {
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	err := srv.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil // clients that do not read are cut off; the image is flushed all the same
	}
	return err
}

// device makes the device of the export: the image, or the part of it that is
// asked for.
func (p *Program) device(ctx context.Context, s *settings, img *block.Image) (server.Device, error) {
	bitmaps := slices.Clone(s.bitmaps)
	slices.Reverse(bitmaps) // clients see the last one first, as those of QEMU do
	dev, err := export.New(ctx, img, export.Options{AllocationDepth: s.depth, Bitmaps: bitmaps})
	if err != nil {
		return nil, err
	}
	switch {
	case s.partition > 0:
		part, err := imageopt.FindPartition(ctx, img, s.partition)
		if err != nil {
			return nil, err
		}
		return newSlice(dev, part.Start, part.Length), nil
	case s.hasOffset:
		if s.offset > img.Size() {
			return nil, fmt.Errorf("Offset (%d) cannot be greater than size of the containing file (%d)", s.offset, img.Size())
		}
		return newSlice(dev, s.offset, img.Size()-s.offset), nil
	}
	return dev, nil
}

func closeAll(list []net.Listener) {
	for _, l := range list {
		l.Close()
	}
}
