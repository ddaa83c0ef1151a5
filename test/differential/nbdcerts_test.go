//go:build unix

package differential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// certSpec describes a certificate. The zero value is a good one for servers and
// clients.
type certSpec struct {
	name     string
	from     time.Duration // from now, 0: an hour ago
	until    time.Duration // from now, 0: in an hour
	basic    string        // basic constraints: "ca", "not ca", or "" for none
	usage    x509.KeyUsage // 0: not said
	optional bool          // usage may be disregarded
	purpose  []asn1.ObjectIdentifier
	must     bool // purpose may not be disregarded
	issuer   *issued
}

// issued is a certificate with its key.
type issued struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

var (
	purposeServer = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 1}
	purposeClient = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 2}
	purposeSign   = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3}
	purposeAny    = asn1.ObjectIdentifier{2, 5, 29, 37, 0}
)

const (
	usageCA   = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	usageBoth = x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment
)

// issue makes the certificate that s describes. Without an issuer it signs itself.
func (s certSpec) issue(t *testing.T) *issued {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(err)
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(err)
	if s.from == 0 {
		s.from = -time.Hour
	}
	if s.until == 0 {
		s.until = time.Hour
	}
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: s.name}, NotBefore: time.Now().Add(s.from), NotAfter: time.Now().Add(s.until),
		BasicConstraintsValid: s.basic != "", IsCA: s.basic == "ca"}
	if s.usage != 0 {
		// The bits of a BIT STRING count from the top.
		bits := asn1.BitString{Bytes: make([]byte, 2), BitLength: 9}
		for i := range 9 {
			if s.usage&(1<<i) != 0 {
				bits.Bytes[i/8] |= 0x80 >> (i % 8)
			}
		}
		der, err := asn1.Marshal(bits)
		must(err)
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Critical: !s.optional, Value: der})
	}
	if s.purpose != nil {
		der, err := asn1.Marshal(s.purpose)
		must(err)
		tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: s.must, Value: der})
	}
	parent, signer := tmpl, key
	if s.issuer != nil {
		parent, signer = s.issuer.cert, s.issuer.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	must(err)
	cert, err := x509.ParseCertificate(der)
	must(err)
	return &issued{cert, key}
}

func (c *issued) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func (c *issued) keyDER(t *testing.T) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(c.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func (c *issued) keyPEM(t *testing.T) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: c.keyDER(t)}))
}

// revoke makes a list of revoked certificates.
func (c *issued) revoke(t *testing.T, which ...*issued) string {
	t.Helper()
	tmpl := &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Hour), NextUpdate: time.Now().Add(time.Hour)}
	for _, w := range which {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: w.cert.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)})
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}))
}

// credFiles are files of a directory of credentials; a name that ends in "/" is a
// directory.
type credFiles map[string]string

func (f credFiles) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range f {
		path := filepath.Join(dir, name)
		var err error
		if name[len(name)-1] == '/' {
			err = os.Mkdir(path, 0o700)
		} else {
			err = os.WriteFile(path, []byte(text), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// with returns f with other files; an empty text leaves a file out.
func (f credFiles) with(pairs ...string) credFiles {
	out := credFiles{}
	for name, text := range f {
		out[name] = text
	}
	for i := 0; i < len(pairs); i += 2 {
		if out[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(out, pairs[i])
		}
	}
	return out
}

// damaged returns PEM text whose content is not what it says.
func damaged(kind string) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes.Repeat([]byte{0x30, 5}, 40)}))
}
