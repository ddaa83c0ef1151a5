package tlscreds

import (
	"bytes"
	"cmp"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"os"
	"slices"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

// Define checks credentials as QEMU does when they are defined, used or not:
// the files that must be there are, and can be read. With sanity the certificates are
// judged, too: their times, what they may be used for, and whether the authority has
// signed ours. objects knows the secret that an encrypted key needs; it may be nil.
//
// Pre-shared keys and anonymous credentials may be defined, and cannot be used.
func Define(creds *driver.TLSCreds, objects driver.Objects, sanity bool) error {
	switch creds.Type {
	case "anon":
		if creds.Dir != "" && creds.Server {
			return checkParams(creds.Dir)
		}
		return nil
	case "psk", "x509":
		if creds.Dir == "" {
			return driver.Errorf(driver.ErrInvalid, "missing 'dir' property value")
		}
		if creds.Type == "psk" {
			return checkKeys(creds)
		}
	default:
		return driver.Errorf(driver.ErrInvalid, "TLS credentials of unknown type '%s'", creds.Type)
	}
	who := role(creds.Server)
	ca, err := find(creds.Dir, caCert, true)
	if err != nil {
		return err
	}
	crl := ""
	if creds.Server {
		if crl, err = find(creds.Dir, caCRL, false); err != nil {
			return err
		}
	}
	own, err := find(creds.Dir, certFile(who), creds.Server)
	if err == nil {
		_, err = find(creds.Dir, keyFile(who), creds.Server)
	}
	if err != nil {
		return err
	}
	if sanity {
		if err := judge(own, ca, creds.Server); err != nil {
			return err
		}
	}
	if _, err := loadAuthorities(ca); err != nil {
		return err
	}
	if _, err := loadPair(creds, objects); err != nil {
		return err
	}
	if crl != "" {
		if _, err := loadRevocations(crl); err != nil {
			return err
		}
	}
	if creds.Server {
		return checkParams(creds.Dir)
	}
	return nil
}

// checkKeys looks for the pre-shared key of a client.
func checkKeys(creds *driver.TLSCreds) error {
	if creds.Server && creds.Username != "" {
		return driver.Errorf(driver.ErrInvalid, "username should not be set when endpoint=server")
	}
	path, err := find(creds.Dir, pskKeys, true)
	if err != nil || creds.Server {
		return err
	}
	data, err := readFile(path)
	if err != nil {
		return driver.Errorf(nil, "cannot read PSK file %s: %w", path, err)
	}
	user := cmp.Or(creds.Username, "qemu")
	for line := range bytes.Lines(data) {
		if name, _, ok := bytes.Cut(line, []byte(":")); ok && string(name) == user {
			return nil
		}
	}
	return driver.Errorf(driver.ErrInvalid, "username %s not found in PSK file %s", user, path)
}

// checkParams checks the file of Diffie-Hellman parameters. They are not used: there
// are elliptic curves with every peer.
func checkParams(dir string) error {
	path, err := find(dir, dhParams, false)
	if err != nil || path == "" {
		return err
	}
	data, err := readFile(path)
	if err != nil {
		return err
	}
	list, err := blocks(data, "DH PARAMETERS")
	if err == nil {
		if rest, e := asn1.Unmarshal(list[0], &asn1.RawValue{}); e != nil || len(rest) > 0 {
			err = errDER
		}
	}
	if err != nil {
		return driver.Errorf(driver.ErrInvalid, "unable to load DH parameters from %s: %w", path, err)
	}
	return nil
}

// maxAuthorities is how many certificates of authorities are judged, and count when
// ours is.
const maxAuthorities = 16

// judge judges our certificate, if own is not "", and those of the authorities.
func judge(own, ca string, server bool) error {
	var cert *x509.Certificate
	var chain []*x509.Certificate
	if own != "" && readable(own) {
		data, err := readFile(own)
		if err != nil {
			return driver.Errorf(nil, "cannot load CA cert list %s: %w", own, err)
		}
		if chain, err = parseCerts(data); err != nil {
			return driver.Errorf(driver.ErrInvalid, "unable to import %s certificate %s: %w", role(server), own, err)
		}
		cert = chain[0]
	}
	var authorities []*x509.Certificate
	if readable(ca) {
		data, err := readFile(ca)
		if err != nil {
			return driver.Errorf(nil, "cannot load CA cert list %s: %w", ca, err)
		}
		if authorities, err = parseCerts(data); err != nil {
			return driver.Errorf(driver.ErrInvalid, "unable to import CA certificate list %s", ca)
		}
		authorities = authorities[:min(len(authorities), maxAuthorities)]
	}
	if cert != nil {
		if err := judgeOwn(cert, own, server); err != nil {
			return err
		}
	}
	for _, c := range authorities {
		if err := judgeAuthority(c, ca); err != nil {
			return err
		}
	}
	if cert == nil || len(authorities) == 0 {
		return nil
	}
	if reason := distrust(cert, chain[1:], authorities); reason != nil {
		return driver.Errorf(driver.ErrInvalid, "our own certificate %s failed validation against %s: %w", own, ca, reason)
	}
	return nil
}

// readable says whether a file can be opened. One that cannot is not judged: it is
// found when it is loaded.
func readable(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// extension returns an extension of a certificate.
func extension(c *x509.Certificate, id asn1.ObjectIdentifier) (there, critical bool) {
	i := slices.IndexFunc(c.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(id) })
	if i < 0 {
		return false, false
	}
	return true, c.Extensions[i].Critical
}

var (
	oidKeyUsage    = asn1.ObjectIdentifier{2, 5, 29, 15}
	oidExtKeyUsage = asn1.ObjectIdentifier{2, 5, 29, 37}
)

// judgeTimes checks whether a certificate is valid now; kind says what it is.
func judgeTimes(c *x509.Certificate, kind, path string) error {
	switch now := time.Now(); {
	case now.After(c.NotAfter):
		return driver.Errorf(driver.ErrInvalid, "the %s certificate %s has expired", kind, path)
	case now.Before(c.NotBefore):
		return driver.Errorf(driver.ErrInvalid, "the %s certificate %s is not yet active", kind, path)
	}
	return nil
}

func judgeAuthority(c *x509.Certificate, path string) error {
	if err := judgeTimes(c, "CA", path); err != nil {
		return err
	}
	_, critical := extension(c, oidKeyUsage)
	switch {
	case !c.BasicConstraintsValid:
		return driver.Errorf(driver.ErrInvalid, "the certificate %s is missing basic constraints for a CA", path)
	case !c.IsCA:
		return driver.Errorf(driver.ErrInvalid, "the certificate %s basic constraints do not show a CA", path)
	case critical && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return driver.Errorf(driver.ErrInvalid, "certificate %s usage does not permit certificate signing", path)
	}
	return nil
}

// judgeOwn checks whether a certificate may be used by a server or by a client. What
// it says of its use binds only where it is marked as critical.
func judgeOwn(c *x509.Certificate, path string, server bool) error {
	if err := judgeTimes(c, role(server), path); err != nil {
		return err
	}
	_, usageBinds := extension(c, oidKeyUsage)
	_, purposeBinds := extension(c, oidExtKeyUsage)
	purpose := x509.ExtKeyUsageClientAuth
	if server {
		purpose = x509.ExtKeyUsageServerAuth
	}
	switch {
	case c.BasicConstraintsValid && c.IsCA:
		return driver.Errorf(driver.ErrInvalid, "the certificate %s basic constraints show a CA, but we need one for a %s", path, role(server))
	case usageBinds && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return driver.Errorf(driver.ErrInvalid, "certificate %s usage does not permit digital signature", path)
	case usageBinds && c.KeyUsage&x509.KeyUsageKeyEncipherment == 0:
		return driver.Errorf(driver.ErrInvalid, "certificate %s usage does not permit key encipherment", path)
	case purposeBinds && !slices.Contains(c.ExtKeyUsage, purpose) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return driver.Errorf(driver.ErrInvalid, "certificate %s purpose does not allow use with a TLS %s", path, role(server))
	}
	return nil
}

// distrust says why a certificate is not trusted by the authorities, nil if it is.
// between are certificates that may lead to them.
func distrust(cert *x509.Certificate, between, authorities []*x509.Certificate) error {
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	for _, c := range authorities {
		o.Roots.AddCert(c)
	}
	for _, c := range between {
		o.Intermediates.AddCert(c)
	}
	_, err := cert.Verify(o)
	var unknown x509.UnknownAuthorityError
	var weak x509.InsecureAlgorithmError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &weak) || cert.SignatureAlgorithm == x509.SHA1WithRSA || cert.SignatureAlgorithm == x509.ECDSAWithSHA1 ||
		cert.SignatureAlgorithm == x509.MD5WithRSA || cert.SignatureAlgorithm == x509.MD2WithRSA:
		return driver.Errorf(nil, "the certificate uses an insecure algorithm")
	case errors.As(err, &unknown) && !slices.ContainsFunc(authorities, func(c *x509.Certificate) bool { return mayHaveSigned(c, cert) }):
		return driver.Errorf(nil, "the certificate hasn't got a known issuer")
	}
	return driver.Errorf(nil, "the certificate is not trusted")
}

// mayHaveSigned says whether an authority is the one that a certificate names.
func mayHaveSigned(authority, c *x509.Certificate) bool {
	return string(authority.RawSubject) == string(c.RawIssuer) &&
		(len(authority.SubjectKeyId) == 0 || len(c.AuthorityKeyId) == 0 || string(authority.SubjectKeyId) == string(c.AuthorityKeyId))
}
