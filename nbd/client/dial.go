package client

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/cowl-disk/cowl/internal/inet"
	"github.com/cowl-disk/cowl/internal/trace"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Mode is a kind of replies; later ones can do more.
type Mode uint8

// The modes.
const (
	ModeOldstyle   Mode = iota + 1 // nothing is negotiated, simple replies
	ModeExportName                 // only the name is, simple replies
	ModeSimple
	ModeStructured
	ModeExtended
)

func (m Mode) String() string {
	return [...]string{"none", "oldstyle", "export name", "simple", "structured", "extended"}[m]
}

// Config says how to connect.
type Config struct {
	Network string // "tcp", "tcp4", "tcp6", "unix" or "vsock"
	Address string // as net.Dial takes it; cid:port for vsock
	Export  string
	// TLS, if set, must be begun: a server that does not is refused.
	TLS *tls.Config
	// Contexts are the metadata contexts to select, as far as the server has them.
	Contexts []string
	// MaxMode, if set, is the most that is asked for: ModeSimple or more.
	MaxMode Mode
	// InFlight is how many requests may be under way, 0: 64.
	InFlight int
	// HandshakeTimeout bounds connecting and negotiating. 0: 30 seconds; negative:
	// only ctx does.
	HandshakeTimeout time.Duration
	// Dial, if set, makes the connection.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Info is a server's description of an export.
type Info struct {
	Name        string // the name that the server prefers, or the one asked for
	Description string
	Size        int64
	Flags       wire.TransFlags
	// BlockSize is zero if the server does not say.
	BlockSize wire.BlockSize
	// Contexts are those selected, or for List those that there are.
	Contexts []string
	Mode     Mode
	TLS      bool
}

// Dial connects to a server and chooses an export. ctx bounds the negotiation, not
// the connection.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	trace.NBDClientHandshake.LogText(cfg.Export)
	var c *Conn
	err := cfg.negotiate(ctx, func(h *handshake) error {
		info, ids, err := h.choose(cfg.Export, cfg.Contexts)
		if err != nil {
			return err
		}
		c = newConn(h.nc, h.br, info, ids, cfg.InFlight)
		return nil
	})
	if err != nil {
		return nil, err
	}
	go c.receive()
	trace.NBDClientHandshakeSuccess.LogText(cfg.Export)
	return c, nil
}

// List asks a server for its exports and their descriptions.
func List(ctx context.Context, cfg Config) ([]Info, error) {
	var list []Info
	err := cfg.negotiate(ctx, func(h *handshake) (err error) {
		list, err = h.list()
		h.raw.Close()
		return err
	})
	return list, err
}

// negotiate connects, does the common part of the handshake and then what comes
// after it. The connection is closed if that fails.
func (cfg *Config) negotiate(ctx context.Context, then func(*handshake) error) (err error) {
	if d := cfg.HandshakeTimeout; d >= 0 {
		if d == 0 {
			d = 30 * time.Second
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	if err := wire.CheckString(cfg.Export); err != nil {
		return fmt.Errorf("export name is not valid: %w", err)
	}
	dial := cfg.Dial
	if dial == nil {
		dial = inet.Dial
		if cfg.Network == "unix" {
			if err := inet.CheckSocketPath(cfg.Address); err != nil {
				return err
			}
		}
	}
	raw, err := dial(ctx, cfg.Network, cfg.Address)
	if err != nil {
		return &ConnectError{err}
	}
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	h := newHandshake(ctx, raw, cfg)
	if err = h.begin(); err == nil {
		err = then(h)
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("negotiation with the NBD server: %w", ctx.Err())
		}
	}
	return err
}
