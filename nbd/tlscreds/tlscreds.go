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
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

// maxFile is the largest file of credentials that is read.
const maxFile = 16 << 20

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
	cert, err := loadPair(creds, objects, "server", true)
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
// certificate must be for; "" leaves that unchecked, as there is no name to a
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
	cert, err := loadPair(creds, objects, "client", false)
	if err != nil {
		return nil, err
	}
	if cert != nil {
		// Sent whatever authorities the server names: it will say if it minds.
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
		return driver.Errorf(driver.ErrUnsupported, "TLS with pre-shared keys (tls-creds-psk) is not supported")
	case "anon":
		return driver.Errorf(driver.ErrUnsupported, "TLS with anonymous credentials (tls-creds-anon) is not supported")
	default:
		return driver.Errorf(driver.ErrInvalid, "TLS credentials of unknown type '%s'", creds.Type)
	}
	if creds.Server != server {
		endpoint := "client"
		if server {
			endpoint = "server"
		}
		return driver.Errorf(driver.ErrInvalid, "Expected TLS credentials for a %s endpoint", endpoint)
	}
	if creds.Dir == "" {
		return driver.Errorf(driver.ErrInvalid, "Missing 'dir' property value")
	}
	if creds.Priority != "" && creds.Priority != "NORMAL" {
		return driver.Errorf(driver.ErrUnsupported, "TLS priority '%s' is not supported: only NORMAL is", creds.Priority)
	}
	return nil
}

// read reads a file of the directory; ok is false if it is missing and need not be
// there.
func read(dir, name string, required bool) (data []byte, ok bool, err error) {
	path := filepath.Join(dir, name)
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) && !required {
		return nil, false, nil
	}
	if err == nil && st.Size() > maxFile {
		err = driver.Errorf(driver.ErrBudget, "file of %d bytes", st.Size())
	}
	if err == nil {
		data, err = os.ReadFile(path)
	}
	if err != nil {
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return nil, false, fmt.Errorf("Unable to access credentials %s: %w", path, err)
	}
	return data, true, nil
}

// VerifyError is a certificate that is not accepted.
type VerifyError struct {
	msg   string
	cause error // may be nil
}

func (e *VerifyError) Error() string { return e.msg }

// Unwrap returns what the library says of the certificate.
func (e *VerifyError) Unwrap() error { return e.cause }

// trust is what certificates are verified with.
type trust struct {
	roots   *x509.CertPool
	certs   []*x509.Certificate
	revoked []*x509.RevocationList
}

func loadTrust(dir string) (*trust, error) {
	const ca, crl = "ca-cert.pem", "ca-crl.pem"
	data, _, err := read(dir, ca, true)
	if err != nil {
		return nil, err
	}
	t := &trust{roots: x509.NewCertPool()}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("Unable to import CA certificates %s: %w", filepath.Join(dir, ca), err)
		}
		if !c.IsCA && c.BasicConstraintsValid {
			return nil, driver.Errorf(driver.ErrInvalid, "The certificate %s basic constraints do not show a CA", filepath.Join(dir, ca))
		}
		t.roots.AddCert(c)
		t.certs = append(t.certs, c)
	}
	if len(t.certs) == 0 {
		return nil, driver.Errorf(driver.ErrInvalid, "No certificate in %s", filepath.Join(dir, ca))
	}
	data, ok, err := read(dir, crl, false)
	if err != nil || !ok {
		return t, err
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("Unable to import CRL %s: %w", filepath.Join(dir, crl), err)
		}
		if !slices.ContainsFunc(t.certs, func(c *x509.Certificate) bool { return l.CheckSignatureFrom(c) == nil }) {
			return nil, driver.Errorf(driver.ErrInvalid, "%s is not signed by the authority of %s", filepath.Join(dir, crl), ca)
		}
		t.revoked = append(t.revoked, l)
	}
	return t, nil
}

// verify checks the certificates of a peer, the first of which is its own.
func (t *trust) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(certs) == 0 {
		return &VerifyError{"No certificate peers", nil}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: time.Now()})
	if err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return &VerifyError{"The certificate hasn't got a known issuer", err}
		}
		return &VerifyError{fmt.Sprintf("The certificate is not trusted: %v", err), err}
	}
	// One chain without a revoked certificate is enough.
	if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return !slices.ContainsFunc(chain, t.isRevoked) }) {
		return &VerifyError{"The certificate has been revoked", nil}
	}
	return nil
}

func (t *trust) isRevoked(c *x509.Certificate) bool {
	for _, l := range t.revoked {
		if string(l.RawIssuer) != string(c.RawIssuer) {
			continue
		}
		for _, e := range l.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
				return true
			}
		}
	}
	return false
}

// checkHost checks that a certificate is for a host: by its alternative names, or by
// its common name if it has none.
func checkHost(c *x509.Certificate, host string) error {
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	err := c.VerifyHostname(bare)
	if len(c.DNSNames)+len(c.IPAddresses) == 0 && strings.EqualFold(c.Subject.CommonName, bare) {
		err = nil
	}
	if err != nil {
		return &VerifyError{"Certificate does not match the hostname " + host, err}
	}
	return nil
}

// loadPair reads a certificate, with those that lead to the authority, and its key.
func loadPair(creds *driver.TLSCreds, objects driver.Objects, who string, required bool) (*tls.Certificate, error) {
	certPEM, ok, err := read(creds.Dir, who+"-cert.pem", required)
	if err != nil || !ok {
		return nil, err
	}
	keyPEM, _, err := read(creds.Dir, who+"-key.pem", true)
	if err != nil {
		return nil, err
	}
	keyName := filepath.Join(creds.Dir, who+"-key.pem")
	if block, _ := pem.Decode(keyPEM); block != nil && block.Type == "ENCRYPTED PRIVATE KEY" {
		if creds.PasswordID == "" || objects == nil {
			return nil, driver.Errorf(driver.ErrInvalid, "Unable to load key %s: it is encrypted, and no password is given", keyName)
		}
		password, err := objects.Secret(creds.PasswordID)
		if err != nil {
			return nil, err
		}
		der, err := decryptPKCS8(block.Bytes, password)
		if err != nil {
			return nil, fmt.Errorf("Unable to load key %s: %w", keyName, err)
		}
		keyPEM = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	} else if block != nil && strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED") {
		return nil, driver.Errorf(driver.ErrUnsupported, "Unable to load key %s: its old way of encryption is not supported, use PKCS #8", keyName)
	}
	cert, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		return nil, fmt.Errorf("Unable to load certificate %s & key %s: %w", filepath.Join(creds.Dir, who+"-cert.pem"), keyName, err)
	}
	now := time.Now()
	switch leaf := cert.Leaf; {
	case now.After(leaf.NotAfter):
		return nil, driver.Errorf(driver.ErrInvalid, "The certificate %s has expired", filepath.Join(creds.Dir, who+"-cert.pem"))
	case now.Before(leaf.NotBefore):
		return nil, driver.Errorf(driver.ErrInvalid, "The certificate %s is not yet active", filepath.Join(creds.Dir, who+"-cert.pem"))
	}
	return &cert, nil
}
