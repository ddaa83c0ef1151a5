package qemunbd

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// flagNames are the names of the transmission flags that are printed, from bit 1.
var flagNames = [...]string{"readonly", "flush", "fua", "rotational", "trim", "zeroes", "df", "multi", "resize", "cache", "fast-zero", "block-status-payload"}

// list prints the exports of another server.
func (p *Program) list(ctx context.Context, s *settings) error {
	cfg := client.Config{Network: "unix", Address: s.socket}
	name := s.socket
	if s.socket == "" {
		host := s.bind
		if host == "" {
			host = "0.0.0.0"
		}
		cfg.Network, cfg.Address = "tcp", net.JoinHostPort(host, s.port)
		name = host + ":" + s.port
	}
	if err := p.setClientTLS(s, &cfg); err != nil {
		return err
	}
	exports, err := client.List(ctx, cfg)
	if err != nil {
		var ce *client.ConnectError
		var oe *client.OptionError
		var ve *tlscreds.VerifyError
		switch {
		case errors.As(err, &ce):
			err = fmt.Errorf("Failed to connect to '%s': %w", name, cause(err))
		case errors.As(err, &oe):
			err = oe
		case errors.As(err, &ve):
			err = ve
		}
		return err
	}
	fmt.Fprintf(p.Stdout, "exports available: %d\n", len(exports))
	for _, e := range exports {
		p.printExport(e)
	}
	return nil
}

func (p *Program) printExport(e client.Info) {
	out := p.Stdout
	fmt.Fprintf(out, " export: '%s'\n", render.Printable(e.Name))
	if e.Description != "" {
		fmt.Fprintf(out, "  description: %s\n", render.Printable(e.Description))
	}
	if e.Flags&wire.FlagHasFlags != 0 {
		fmt.Fprintf(out, "  size:  %d\n", e.Size)
		fmt.Fprintf(out, "  flags: 0x%x (", uint16(e.Flags))
		for i, f := range flagNames {
			if e.Flags>>(i+1)&1 != 0 {
				fmt.Fprint(out, " "+f)
			}
		}
		fmt.Fprintln(out, " )")
	}
	for _, b := range []struct {
		name string
		n    uint32
	}{{"min", e.BlockSize.Min}, {"opt", e.BlockSize.Preferred}, {"max", e.BlockSize.Max}} {
		if e.BlockSize.Min != 0 {
			fmt.Fprintf(out, "  %s block: %d\n", b.name, b.n)
		}
	}
	size := "32-bit"
	if e.Mode == client.ModeExtended {
		size = "64-bit"
	}
	fmt.Fprintf(out, "  transaction size: %s\n", size)
	if len(e.Contexts) > 0 {
		fmt.Fprintf(out, "  available meta contexts: %d\n", len(e.Contexts))
		for _, c := range e.Contexts {
			fmt.Fprintf(out, "   %s\n", render.Printable(c))
		}
	}
}
