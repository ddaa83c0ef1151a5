package tlscreds

import (
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

// decryptPKCS8 decrypts a private key that was encrypted with PBES2.
func decryptPKCS8(der, password []byte) ([]byte, error) {
	var k encryptedKey
	if rest, err := asn1.Unmarshal(der, &k); err != nil || len(rest) > 0 {
		return nil, errKey
	}
	if k.Algorithm.Algorithm.String() != "1.2.840.113549.1.5.13" {
		return nil, driver.Errorf(driver.ErrUnsupported, "encryption %v is not supported, only PBES2 is", k.Algorithm.Algorithm)
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
	if _, err := asn1.Unmarshal(p.Cipher.Parameters.FullBytes, &iv); err != nil || len(iv) != block.BlockSize() ||
		len(k.Data) == 0 || len(k.Data)%block.BlockSize() != 0 {
		return nil, errKey
	}
	out := make([]byte, len(k.Data))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(out, k.Data)
	// A wrong password shows in the padding, or in what does not parse.
	pad := int(out[len(out)-1])
	if pad == 0 || pad > block.BlockSize() || pad > len(out) {
		return nil, errors.New("the password is wrong")
	}
	for _, b := range out[len(out)-pad:] {
		if int(b) != pad {
			return nil, errors.New("the password is wrong")
		}
	}
	out = out[:len(out)-pad]
	var any asn1.RawValue
	if rest, err := asn1.Unmarshal(out, &any); err != nil || len(rest) > 0 {
		return nil, errors.New("the password is wrong")
	}
	return out, nil
}
