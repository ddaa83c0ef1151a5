package qemunbd

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
)

// setTLS makes the server demand TLS, as the command line says.
func (p *Program) setTLS(s *settings, cfg *server.Config) error {
	if s.tlsCreds == "" {
		return nil
	}
	creds, err := s.objects.TLSCreds(s.tlsCreds)
	if err != nil {
		return fmt.Errorf("Failed to get TLS creds: %w", err)
	}
	if !creds.Server {
		return errors.New("Expecting TLS credentials with a server endpoint")
	}
	if cfg.TLS, err = tlscreds.Server(creds, s.objects.Secret); err != nil {
		return err
	}
	cfg.RequireTLS = true
	if s.tlsAuthz == "" {
		return nil
	}
	authz, err := s.objects.Authz(s.tlsAuthz)
	if err != nil {
		return err
	}
	cfg.Authorize = func(_ context.Context, peer server.Peer) error {
		if peer.TLS == nil || len(peer.TLS.PeerCertificates) == 0 {
			return errors.New("TLS x509 authz check: the client has no certificate")
		}
		if name := distinguishedName(peer.TLS.PeerCertificates[0]); !authz.Allow(name) {
			return fmt.Errorf("TLS x509 authz check for %s is denied", name)
		}
		return nil
	}
	return nil
}

// distinguishedName writes the subject of a certificate as RFC 4514 says.
func distinguishedName(c *x509.Certificate) string { return c.Subject.String() }

// setClientTLS makes the client begin TLS, as the command line says.
func (p *Program) setClientTLS(s *settings, cfg *client.Config) error {
	if s.tlsCreds == "" {
		return nil
	}
	creds, err := s.objects.TLSCreds(s.tlsCreds)
	if err != nil {
		return fmt.Errorf("Failed to get TLS creds: %w", err)
	}
	if creds.Server {
		return errors.New("Expecting TLS credentials with a client endpoint")
	}
	host := s.tlsHostname
	if host == "" {
		host = s.bind
	}
	cfg.TLS, err = tlscreds.Client(creds, host, s.objects.Secret)
	return err
}
