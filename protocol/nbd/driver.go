package nbd

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/sockaddr"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
	"github.com/cowl-disk/cowl/nbd/wire"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name:        "nbd",
	Kind:        driver.KindProtocol,
	Schemes:     []string{"nbd", "nbd+tcp", "nbd+unix", "nbd+vsock", "nbds", "nbds+tcp", "nbds+unix", "nbds+vsock"},
	Summary:     "Exports of NBD servers",
	OpenOptions: openSchema,
	// A server has what it has: creating means to check that it is large enough.
	CreateOptions: opts.SchemaOf(struct{}{}),
}

// New returns the driver "nbd".
func New() driver.Driver { return nbdDriver{} }

type nbdDriver struct{}

var (
	_ driver.FilenameParser = nbdDriver{}
	_ driver.Creator        = nbdDriver{}
)

// Desc implements driver.Driver.
func (nbdDriver) Desc() *driver.Desc { return &desc }

// ParseFilename implements driver.FilenameParser.
func (nbdDriver) ParseFilename(name string) (opts.Dict, error) { return parseName(name) }

// Open implements driver.Driver.
func (nbdDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o openOptions
	if err := openSchema.Decode(req.Options, &o); err != nil {
		var unknown *opts.UnknownError
		if errors.As(err, &unknown) {
			if name, ok := strings.CutPrefix(unknown.Name, "server."); ok {
				return nil, driver.Errorf(driver.ErrInvalid, "Parameter '%s' is unexpected", name)
			}
		}
		return nil, err
	}
	at, err := o.endpoint()
	if err == nil {
		err = o.check()
	}
	if err != nil {
		return nil, err
	}
	n := &node{at: at, opt: o, write: req.Access.Write, status: wire.ContextAllocation}
	n.cfg = client.Config{Network: at.Network, Address: at.Address, Export: o.Export,
		Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return at.Dial(ctx) }}
	if n.cfg.TLS, err = o.tls(at, req.Env); err != nil {
		return nil, err
	}
	if o.DirtyBitmap != "" {
		n.status = o.DirtyBitmap
	}
	n.cfg.Contexts = []string{n.status}
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// tls returns the TLS configuration that the options ask for, nil for none.
func (o *openOptions) tls(at *sockaddr.Endpoint, env *driver.Env) (*tls.Config, error) {
	host := o.TLSHostname
	if host == "" {
		host = at.Host
	}
	if o.TLSCreds == "" {
		switch {
		case o.TLSCertificates != "":
			creds := &driver.TLSCreds{Type: "x509", Dir: o.TLSCertificates, VerifyPeer: true}
			// Nobody has defined them as an object before.
			if err := tlscreds.Define(creds, env.Objects, true); err != nil {
				return nil, err
			}
			return tlscreds.Client(creds, env.Objects, host)
		case o.TLS && host == "":
			return nil, driver.Errorf(driver.ErrInvalid, "TLS over this transport needs tls-hostname, to check the certificate")
		case o.TLS:
			return &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}, nil
		case o.TLSHostname != "":
			return nil, driver.Errorf(driver.ErrInvalid, "tls-hostname may not be used without TLS")
		}
		return nil, nil
	}
	creds, err := driver.FindObject[*driver.TLSCreds](env.Objects, o.TLSCreds)
	if err != nil {
		return nil, err
	}
	if creds.Server {
		return nil, driver.Errorf(driver.ErrInvalid, "Expected TLS credentials for a client endpoint")
	}
	return tlscreds.Client(creds, env.Objects, host)
}

// Create implements driver.Creator: the export must be there and large enough.
func (d nbdDriver) Create(ctx context.Context, req *driver.CreateRequest) error {
	o, err := parseName(req.Filename)
	if err != nil {
		return err
	}
	open, err := d.Open(ctx, &driver.OpenRequest{Name: req.Filename, Options: o, Access: driver.Access{Write: true}, Env: req.Env})
	if err != nil {
		return err
	}
	size := open.Size()
	if err := open.Close(ctx); err != nil {
		return err
	}
	if req.Size > size {
		return driver.Errorf(driver.ErrUnsupported, "Cannot grow NBD nodes")
	}
	return nil
}

// connectError words an error of connecting as users know it.
func (n *node) connectError(err error) error {
	var oe *client.OptionError
	var ce *client.ConnectError
	var ve *tlscreds.VerifyError
	var ge *client.GreetingError
	switch {
	case errors.Is(err, sockaddr.ErrUsedUp):
		return driver.Errorf(driver.ErrInvalid, "%w", sockaddr.ErrUsedUp)
	case errors.As(err, &ge):
		return driver.Errorf(driver.ErrInvalid, "%w", ge)
	case errors.As(err, &oe):
		return driver.Errorf(driver.ErrInvalid, "%s", oe.Report())
	case errors.As(err, &ve):
		return driver.Errorf(driver.ErrInvalid, "%w", ve)
	case errors.As(err, &ce):
		return n.at.Error(ce.Err)
	}
	return driver.Errorf(driver.ErrInvalid, "Negotiation with '%s' failed: %w", n.at, err)
}

// between is how long to wait between attempts to connect: longer each time.
func between(attempt int) time.Duration {
	return min(10*time.Millisecond<<min(attempt, 10), time.Second)
}
