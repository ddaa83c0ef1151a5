package qemunbd

import (
	"context"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/object"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
)

// setTLS makes the server demand TLS, as the command line says.
func (p *Program) setTLS(s *settings, cfg *server.Config) error {
	if s.tlsCreds == "" {
		return nil
	}
	creds, err := driver.FindObject[*driver.TLSCreds](&s.objects, s.tlsCreds)
	if err != nil {
		return fmt.Errorf("Failed to get TLS creds: %w", err)
	}
	if !creds.Server {
		return errors.New("Failed to get TLS creds: Expected TLS credentials for a server endpoint")
	}
	if cfg.TLS, err = tlscreds.Server(creds, &s.objects); err != nil {
		return err
	}
	cfg.RequireTLS = true
	if s.tlsAuthz == "" {
		return nil
	}
	authz, err := driver.FindObject[*object.Authz](&s.objects, s.tlsAuthz)
	if err != nil {
		return err
	}
	cfg.Authorize = func(_ context.Context, peer server.Peer) error {
		if peer.TLS == nil || len(peer.TLS.PeerCertificates) == 0 {
			return errors.New("TLS x509 authz check: the client has no certificate")
		}
		name := tlscreds.DN(peer.TLS.PeerCertificates[0])
		ok, err := authz.Allow(name)
		if err != nil {
			return fmt.Errorf("TLS x509 authz check for %s failed: %w", name, err)
		}
		if !ok {
			return fmt.Errorf("TLS x509 authz check for %s is denied", name)
		}
		return nil
	}
	return nil
}

// setClientTLS makes the client begin TLS, as the command line says.
func (p *Program) setClientTLS(s *settings, cfg *client.Config) error {
	if s.tlsCreds == "" {
		return nil
	}
	creds, err := driver.FindObject[*driver.TLSCreds](&s.objects, s.tlsCreds)
	if err != nil {
		return fmt.Errorf("Failed to get TLS creds: %w", err)
	}
	if creds.Server {
		return errors.New("Failed to get TLS creds: Expected TLS credentials for a client endpoint")
	}
	host := s.tlsHostname
	if host == "" {
		host = s.bind
	}
	cfg.TLS, err = tlscreds.Client(creds, &s.objects, host)
	return err
}
