// Package tlscreds makes TLS configurations of credentials as QEMU has them: a
// directory with ca-cert.pem, ca-crl.pem, server-cert.pem, server-key.pem,
// client-cert.pem and client-key.pem.
//
// A server needs the certificate of the authority and its own with its key. With
// verify-peer it takes only clients whose certificate the authority has signed. A
// client needs the certificate of the authority; its own is sent if there is one.
// With verify-peer the server's certificate must be signed by the authority and be
// for the name of the host; without, any server is believed.
//
// Pre-shared keys and anonymous credentials are refused: the TLS library does not
// have them.
package tlscreds

import (
	"crypto/tls"
	"crypto/x509"

	"github.com/cowl-disk/cowl/block/driver"
)

// Server returns the configuration of a server. objects knows the secret that an
// encrypted key needs; it may be nil.
func Server(creds *driver.TLSCreds, objects driver.Objects) (*tls.Config, error) {
	if err := check(creds, true); err != nil {
		return nil, err
	}
	t, err := loadTrust(creds.Dir)
	if err != nil {
		return nil, err
	}
	cert, err := loadPair(creds, objects)
	if err != nil {
		return nil, err
	}
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*cert}}
	if creds.VerifyPeer {
		// The names of authorities are not sent (ClientCAs): with them clients that
		// use GnuTLS send no certificate.
		cfg.ClientAuth = tls.RequireAnyClientCert
		cfg.VerifyConnection = func(st tls.ConnectionState) error {
			return t.verify(st.PeerCertificates, x509.ExtKeyUsageClientAuth)
		}
	}
	return cfg, nil
}

// Client returns the configuration of a client. hostname is what the server's
// certificate must be for; "" leaves that unchecked, for example for a
// local socket.
func Client(creds *driver.TLSCreds, objects driver.Objects, hostname string) (*tls.Config, error) {
	if err := check(creds, false); err != nil {
		return nil, err
	}
	t, err := loadTrust(creds.Dir)
	if err != nil {
		return nil, err
	}
	// The verification is ours: certificates without alternative names count, too.
	cfg := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, ServerName: hostname}
	cert, err := loadPair(creds, objects)
	if err != nil {
		return nil, err
	}
	if cert != nil {
		// Sent whatever authorities the server names: the server decides.
		cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	if creds.VerifyPeer {
		cfg.VerifyConnection = func(st tls.ConnectionState) error {
			if err := t.verify(st.PeerCertificates, x509.ExtKeyUsageServerAuth); err != nil {
				return err
			}
			if hostname == "" {
				return nil
			}
			return checkHost(st.PeerCertificates[0], hostname)
		}
	}
	return cfg, nil
}

func check(creds *driver.TLSCreds, server bool) error {
	switch creds.Type {
	case "x509":
	case "psk":
		return driver.Errorf(driver.ErrUnsupported, "TLS with pre-shared keys (tls-creds-psk) is not supported: use certificates (tls-creds-x509)")
	case "anon":
		return driver.Errorf(driver.ErrUnsupported, "TLS with anonymous credentials (tls-creds-anon) is not supported: use certificates (tls-creds-x509)")
	default:
		return driver.Errorf(driver.ErrInvalid, "TLS credentials of unknown type '%s'", creds.Type)
	}
	if creds.Server != server {
		return driver.Errorf(driver.ErrInvalid, "expected TLS credentials for a %s endpoint", role(server))
	}
	if creds.Dir == "" {
		return driver.Errorf(driver.ErrInvalid, "missing 'dir' property value")
	}
	if creds.Priority != "" && creds.Priority != "NORMAL" {
		return driver.Errorf(driver.ErrUnsupported, "TLS priority '%s' is not supported: only NORMAL is", creds.Priority)
	}
	return nil
}
