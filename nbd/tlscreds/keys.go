package tlscreds

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/md5"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"strings"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/block/driver"
)

// loadPair reads our certificate, with those that lead to the authority, and its key.
// It is nil if one of them is missing and need not be there.
func loadPair(creds *driver.TLSCreds, objects driver.Objects) (*tls.Certificate, error) {
	who := role(creds.Server)
	certPath, err := find(creds.Dir, certFile(who), creds.Server)
	if err != nil {
		return nil, err
	}
	keyPath, err := find(creds.Dir, keyFile(who), creds.Server)
	if err != nil || certPath == "" || keyPath == "" {
		return nil, err
	}
	var password []byte
	if creds.PasswordID != "" {
		if password, err = driver.FindObject[driver.Secret](objects, creds.PasswordID); err != nil {
			return nil, err
		}
		if !utf8.Valid(password) {
			return nil, driver.Errorf(driver.ErrInvalid, "data from secret %s is not valid UTF-8", creds.PasswordID)
		}
	}
	cert, err := readPair(certPath, keyPath, password)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "cannot load certificate '%s' & key '%s': %w", certPath, keyPath, err)
	}
	return cert, nil
}

func readPair(certPath, keyPath string, password []byte) (*tls.Certificate, error) {
	text, err := readFile(keyPath)
	if err != nil {
		return nil, errReading
	}
	der, err := privateKey(text, password)
	if err != nil {
		return nil, err
	}
	if text, err = readFile(certPath); err != nil {
		return nil, errReading
	}
	certs, err := parseCerts(text)
	if err == errHeader {
		err = errBase64
	}
	if err != nil {
		return nil, err
	}
	var chain []byte
	for _, c := range certs {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	cert, err := tls.X509KeyPair(chain, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
	if err != nil {
		text := err.Error()
		switch {
		case strings.Contains(text, "does not match"):
			return nil, errMismatch
		case strings.Contains(text, "failed to parse private key"):
			return nil, errDER
		}
		return nil, err
	}
	return &cert, nil
}

// privateKey returns the first private key of a file, decrypted. Without a password
// an empty one is tried.
func privateKey(text, password []byte) ([]byte, error) {
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		switch {
		case block.Type == "ENCRYPTED PRIVATE KEY":
			return decryptPKCS8(block.Bytes, password)
		case block.Type != "PRIVATE KEY" && !strings.HasSuffix(block.Type, " PRIVATE KEY"):
			continue
		case strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED"):
			return decryptOld(block, password)
		}
		return block.Bytes, nil
	}
	return nil, errNoData
}

// oldCiphers are those of the encryption that old PEM files name in a header, with the
// length of their keys.
var oldCiphers = map[string]struct {
	key  int
	make func([]byte) (cipher.Block, error)
}{
	"DES-CBC":      {8, des.NewCipher},
	"DES-EDE3-CBC": {24, des.NewTripleDESCipher},
	"AES-128-CBC":  {16, aes.NewCipher},
	"AES-192-CBC":  {24, aes.NewCipher},
	"AES-256-CBC":  {32, aes.NewCipher},
}

// decryptOld decrypts a key whose PEM header names the cipher and the initialization
// vector (RFC 1421). The key is made of the password by MD5, the first half of the
// vector is the salt.
func decryptOld(block *pem.Block, password []byte) ([]byte, error) {
	name, ivText, ok := strings.Cut(block.Headers["DEK-Info"], ",")
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "the encrypted key does not name its cipher (DEK-Info)")
	}
	c, ok := oldCiphers[name]
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "cipher %q is not supported: encrypt the key as PKCS #8 with AES", name)
	}
	iv, err := hex.DecodeString(strings.TrimSpace(ivText))
	if err != nil || len(iv) < 8 {
		return nil, errKey
	}
	var key, last []byte
	for len(key) < c.key {
		h := md5.New()
		h.Write(last)
		h.Write(password)
		h.Write(iv[:8])
		last = h.Sum(nil)
		key = append(key, last...)
	}
	b, err := c.make(key[:c.key])
	if err != nil {
		return nil, err
	}
	return decryptCBC(b, iv, block.Bytes)
}

// decryptCBC decrypts data and removes the padding. A wrong password shows in that, or
// in what does not parse.
func decryptCBC(b cipher.Block, iv, data []byte) ([]byte, error) {
	size := b.BlockSize()
	if len(iv) != size || len(data) == 0 || len(data)%size != 0 {
		return nil, errKey
	}
	out := make([]byte, len(data))
	cipher.NewCBCDecrypter(b, iv).CryptBlocks(out, data)
	pad := int(out[len(out)-1])
	if pad == 0 || pad > size {
		return nil, errDecrypt
	}
	for _, b := range out[len(out)-pad:] {
		if int(b) != pad {
			return nil, errDecrypt
		}
	}
	out = out[:len(out)-pad]
	if !isDER(out) {
		return nil, errDecrypt
	}
	return out, nil
}
