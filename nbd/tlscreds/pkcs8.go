package tlscreds

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"hash"
	"unicode/utf16"

	"github.com/cowl-disk/cowl/block/driver"
)

// The structures of RFC 5958 and RFC 8018.
type encryptedKey struct {
	Algorithm pkix.AlgorithmIdentifier
	Data      []byte
}

type pbes2Params struct{ KDF, Cipher pkix.AlgorithmIdentifier }

type pbkdf2Params struct {
	Salt       []byte
	Iterations int
	KeyLength  int                      `asn1:"optional"`
	PRF        pkix.AlgorithmIdentifier `asn1:"optional"`
}

const (
	oidPBES2           = "1.2.840.113549.1.5.13"
	oidPKCS12TripleDES = "1.2.840.113549.1.12.1.3"
)

// maxIterations bounds the work that a file can ask for.
const maxIterations = 10_000_000

var hashes = map[string]func() hash.Hash{
	"":                    sha1.New, // the default
	"1.2.840.113549.2.7":  sha1.New,
	"1.2.840.113549.2.9":  sha256.New,
	"1.2.840.113549.2.10": sha512.New384,
	"1.2.840.113549.2.11": sha512.New,
}

var ciphers = map[string]struct {
	key  int
	make func([]byte) (cipher.Block, error)
}{
	"2.16.840.1.101.3.4.1.2":  {16, aes.NewCipher},
	"2.16.840.1.101.3.4.1.22": {24, aes.NewCipher},
	"2.16.840.1.101.3.4.1.42": {32, aes.NewCipher},
	"1.2.840.113549.3.7":      {24, des.NewTripleDESCipher},
}

var errKey = errors.New("the encrypted key is damaged")

// decryptPKCS8 decrypts a private key that was encrypted with PBES2, or with triple
// DES in the way of PKCS #12.
func decryptPKCS8(der, password []byte) ([]byte, error) {
	var k encryptedKey
	if rest, err := asn1.Unmarshal(der, &k); err != nil || len(rest) > 0 {
		return nil, errKey
	}
	switch id := k.Algorithm.Algorithm.String(); id {
	case oidPBES2:
	case oidPKCS12TripleDES:
		return decryptPKCS12(&k, password)
	default:
		return nil, driver.Errorf(driver.ErrUnsupported, "encryption %s is not supported: encrypt the key with AES (PBES2)", id)
	}
	var p pbes2Params
	if _, err := asn1.Unmarshal(k.Algorithm.Parameters.FullBytes, &p); err != nil {
		return nil, errKey
	}
	var kdf pbkdf2Params
	if p.KDF.Algorithm.String() != "1.2.840.113549.1.5.12" {
		return nil, driver.Errorf(driver.ErrUnsupported, "key derivation %v is not supported, only PBKDF2 is", p.KDF.Algorithm)
	}
	if _, err := asn1.Unmarshal(p.KDF.Parameters.FullBytes, &kdf); err != nil || kdf.Iterations <= 0 || kdf.Iterations > maxIterations {
		return nil, errKey
	}
	h, ok := hashes[kdf.PRF.Algorithm.String()]
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "hash %v of the key derivation is not supported", kdf.PRF.Algorithm)
	}
	c, ok := ciphers[p.Cipher.Algorithm.String()]
	if !ok {
		return nil, driver.Errorf(driver.ErrUnsupported, "cipher %v is not supported", p.Cipher.Algorithm)
	}
	key, err := pbkdf2.Key(h, string(password), kdf.Salt, kdf.Iterations, c.key)
	if err != nil {
		return nil, err
	}
	block, err := c.make(key)
	if err != nil {
		return nil, err
	}
	var iv []byte
	if _, err := asn1.Unmarshal(p.Cipher.Parameters.FullBytes, &iv); err != nil {
		return nil, errKey
	}
	return decryptCBC(block, iv, k.Data)
}

// isDER says whether data are one value.
func isDER(data []byte) bool {
	rest, err := asn1.Unmarshal(data, &asn1.RawValue{})
	return err == nil && len(rest) == 0
}

// pkcs12Params are the parameters of the encryptions of appendix C of RFC 7292.
type pkcs12Params struct {
	Salt       []byte
	Iterations int
}

// decryptPKCS12 decrypts what was encrypted by SHA-1 and three-key triple DES in the
// way of PKCS #12.
func decryptPKCS12(k *encryptedKey, password []byte) ([]byte, error) {
	var p pkcs12Params
	if _, err := asn1.Unmarshal(k.Algorithm.Parameters.FullBytes, &p); err != nil || p.Iterations <= 0 || p.Iterations > maxIterations ||
		len(p.Salt) == 0 || len(p.Salt) > maxSalt {
		return nil, errKey
	}
	block, err := des.NewTripleDESCipher(pkcs12Key(password, p.Salt, p.Iterations, 1, 24))
	if err != nil {
		return nil, err
	}
	return decryptCBC(block, pkcs12Key(password, p.Salt, p.Iterations, 2, des.BlockSize), k.Data)
}

// maxSalt bounds the salt that a file can give.
const maxSalt = 1024

// pkcs12Key derives n bytes by appendix B.2 of RFC 7292 with SHA-1. id says what for:
// 1 is a key, 2 an initialization vector.
func pkcs12Key(password, salt []byte, iterations int, id byte, n int) []byte {
	const v = sha1.BlockSize
	// The password in UTF-16, big-endian, with the zero that ends it.
	var wide []byte
	for _, u := range append(utf16.Encode([]rune(string(password))), 0) {
		wide = append(wide, byte(u>>8), byte(u))
	}
	repeat := func(b []byte) []byte {
		out := make([]byte, (len(b)+v-1)/v*v)
		for i := range out {
			out[i] = b[i%len(b)]
		}
		return out
	}
	state := append(repeat(salt), repeat(wide)...)
	diversifier := bytes.Repeat([]byte{id}, v)
	var out []byte
	for len(out) < n {
		a := sha1.Sum(append(bytes.Clone(diversifier), state...))
		for range iterations - 1 {
			a = sha1.Sum(a[:])
		}
		out = append(out, a[:]...)
		b := repeat(a[:])[:v]
		// Every block of the state grows by b and one, modulo 2^512.
		for off := 0; off < len(state); off += v {
			carry := 1
			for i := v - 1; i >= 0; i-- {
				carry += int(state[off+i]) + int(b[i])
				state[off+i] = byte(carry)
				carry >>= 8
			}
		}
	}
	return out[:n]
}
