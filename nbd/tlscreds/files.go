package tlscreds

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl/block/driver"
)

// The files of a directory of credentials.
const (
	caCert   = "ca-cert.pem"
	caCRL    = "ca-crl.pem"
	dhParams = "dh-params.pem"
	pskKeys  = "keys.psk"
)

// certFile and keyFile name the files of a role, "server" or "client".
func certFile(who string) string { return who + "-cert.pem" }
func keyFile(who string) string  { return who + "-key.pem" }

func role(server bool) string {
	if server {
		return "server"
	}
	return "client"
}

// maxFile is the largest file of credentials that is read.
const maxFile = 16 << 20

// The messages of GnuTLS about files, which users of QEMU know.
var (
	errHeader   = driver.Errorf(nil, "Base64 unexpected header error")
	errBase64   = driver.Errorf(nil, "Base64 decoding error")
	errDER      = driver.Errorf(nil, "ASN1 parser: Error in TAG")
	errReading  = driver.Errorf(nil, "error while reading file")
	errNoData   = driver.Errorf(nil, "the requested data were not available")
	errMismatch = driver.Errorf(nil, "the certificate and the given key do not match")
	errDecrypt  = driver.Errorf(nil, "decryption has failed")
)

// find returns the path of a file in dir, "" if it is missing and need not be there.
func find(dir, name string, required bool) (string, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	} else if errors.Is(err, fs.ErrNotExist) && !required {
		return "", nil
	} else {
		return "", driver.Errorf(nil, "unable to access credentials %s: %w", path, bare(err))
	}
}

// bare returns the error of the system, without the path.
func bare(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, driver.Errorf(nil, "failed to open file “%s”: %w", path, bare(err))
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return nil, driver.Errorf(nil, "error reading file “%s”: %w", path, bare(err))
	case len(data) > maxFile:
		return nil, driver.Errorf(driver.ErrBudget, "“%s” is larger than %d bytes", path, maxFile)
	}
	return data, nil
}

// blocks returns the contents of the PEM blocks of some types. Text around them and
// other blocks do not count. It fails if there are none, or a broken one.
func blocks(data []byte, types ...string) (list [][]byte, err error) {
	begun := 0
	for _, typ := range types {
		begun += bytes.Count(data, []byte("-----BEGIN "+typ+"-----"))
	}
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		for _, typ := range types {
			if block.Type == typ {
				list = append(list, block.Bytes)
			}
		}
	}
	switch {
	case len(list) == 0:
		return nil, errHeader
	case len(list) < begun:
		return nil, errBase64
	}
	return list, nil
}

// signed is what certificates and lists of revocations are, outermost.
type signed struct {
	Content   asn1.RawValue
	Algorithm asn1.RawValue
	Signature asn1.BitString
}

// parseError is the error for der, which cannot be parsed.
func parseError(der []byte, err error) error {
	if rest, e := asn1.Unmarshal(der, &signed{}); e != nil || len(rest) > 0 {
		return errDER
	}
	return err
}

// parseCerts reads all certificates of a file.
func parseCerts(data []byte) ([]*x509.Certificate, error) {
	list, err := blocks(data, "CERTIFICATE", "X509 CERTIFICATE")
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for _, der := range list {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, parseError(der, err)
		}
		certs = append(certs, c)
	}
	return certs, nil
}

func parseCRLs(data []byte) ([]*x509.RevocationList, error) {
	list, err := blocks(data, "X509 CRL")
	if err != nil {
		return nil, err
	}
	var lists []*x509.RevocationList
	for _, der := range list {
		l, err := x509.ParseRevocationList(der)
		if err != nil {
			return nil, parseError(der, err)
		}
		lists = append(lists, l)
	}
	return lists, nil
}
