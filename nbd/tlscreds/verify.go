package tlscreds

import (
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

// VerifyError is a certificate that is not accepted.
type VerifyError struct {
	msg   error // why, of driver.Errorf
	cause error // may be nil
}

func (e *VerifyError) Error() string { return driver.Text(e) }

// Template implements driver.Message.
func (e *VerifyError) Template() (string, []any) { return "%v", []any{e.msg} }

// Unwrap returns the error of the TLS library.
func (e *VerifyError) Unwrap() error { return e.cause }

// trust is what certificates are verified with.
type trust struct {
	roots   *x509.CertPool
	revoked []*x509.RevocationList
}

// loadTrust reads the certificates of the authorities and what they have revoked. A
// file without certificates trusts nothing.
func loadTrust(dir string) (*trust, error) {
	path, err := find(dir, caCert, true)
	if err != nil {
		return nil, err
	}
	certs, err := loadAuthorities(path)
	if err != nil {
		return nil, err
	}
	t := &trust{roots: x509.NewCertPool()}
	for _, c := range certs {
		t.roots.AddCert(c)
	}
	if path, err = find(dir, caCRL, false); err != nil || path == "" {
		return t, err
	}
	// The file is ours, like that of the authorities: what it names as revoked is,
	// whether its signature can be checked or not.
	t.revoked, err = loadRevocations(path)
	if err != nil {
		return nil, err
	}
	return t, nil
}

// loadAuthorities reads a file of certificates.
func loadAuthorities(path string) ([]*x509.Certificate, error) {
	data, err := readFile(path)
	var certs []*x509.Certificate
	if err != nil {
		err = errReading
	} else if certs, err = parseCerts(data); err == errHeader {
		err = nil
	}
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "cannot load CA certificate '%s': %w", path, err)
	}
	return certs, nil
}

func loadRevocations(path string) (lists []*x509.RevocationList, err error) {
	data, err := readFile(path)
	if err != nil {
		err = errReading
	} else if lists, err = parseCRLs(data); err == errHeader {
		err = errBase64
	}
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "cannot load CRL '%s': %w", path, err)
	}
	return lists, nil
}

// verify checks the certificates of a peer, the first of which is its own.
func (t *trust) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage) error {
	if len(certs) == 0 {
		return &VerifyError{driver.Errorf(nil, "no certificate peers"), nil}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	chains, err := certs[0].Verify(x509.VerifyOptions{Roots: t.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{usage}, CurrentTime: time.Now()})
	if err != nil {
		var unknown x509.UnknownAuthorityError
		if errors.As(err, &unknown) {
			return &VerifyError{driver.Errorf(nil, "the certificate hasn't got a known issuer"), err}
		}
		return &VerifyError{driver.Errorf(nil, "the certificate is not trusted: %w", err), err}
	}
	// One chain without a revoked certificate is enough.
	if !slices.ContainsFunc(chains, func(chain []*x509.Certificate) bool { return !slices.ContainsFunc(chain, t.isRevoked) }) {
		return &VerifyError{driver.Errorf(nil, "the certificate has been revoked"), nil}
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
		return &VerifyError{driver.Errorf(nil, "certificate does not match the hostname %s", host), err}
	}
	return nil
}
