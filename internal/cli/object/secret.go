package object

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// maxSecret bounds what is read from the file of a secret.
const maxSecret = 1 << 20

// secret reads a secret that is on the command line or in a file.
func (s *Set) secret(def definition) (driver.Object, error) {
	data, hasData := def.params.TakeText("data")
	file, hasFile := def.params.TakeText("file")
	switch {
	case hasData && hasFile:
		return nil, errors.New("'file' and 'data' are mutually exclusive")
	case !hasData && !hasFile:
		return nil, errors.New("Either 'file' or 'data' must be provided")
	case hasFile:
		content, err := readSecret(file)
		if err != nil {
			return nil, err
		}
		data = content
	}
	return s.decoded(def.params, data)
}

// keyringSecret reads a secret out of a key ring of the kernel.
func (s *Set) keyringSecret(def definition) (driver.Object, error) {
	text, ok := def.params.TakeText("serial")
	if !ok {
		return nil, errors.New("Parameter 'serial' is missing")
	}
	serial, err := strconv.ParseInt(text, 0, 64)
	switch {
	case err != nil && !errors.Is(err, strconv.ErrRange):
		return nil, errors.New("Parameter 'serial' expects integer")
	case err != nil || serial != int64(int32(serial)):
		return nil, errors.New("Parameter 'serial' expects int32_t")
	}
	data, err := readKey(int32(serial))
	if err != nil {
		return nil, fmt.Errorf("Unable to read serial key %08x: %w", uint32(serial), err)
	}
	return s.decoded(def.params, string(data))
}

// decoded makes a secret of data. With keyid it is encrypted by AES-256-CBC, padded as
// PKCS #7 says, under the secret of that id, which is in base64 then.
func (s *Set) decoded(d opts.Dict, data string) (driver.Object, error) {
	format := d.String("format")
	if format != "" && format != "raw" && format != "base64" {
		return nil, fmt.Errorf("Parameter 'format' does not accept value '%s'", format)
	}
	if keyID, ok := d["keyid"]; ok {
		iv, hasIV := d["iv"]
		plain, err := s.decrypt(opts.Text(keyID), opts.Text(iv), hasIV, data, format == "base64")
		if err != nil {
			return nil, err
		}
		return driver.Secret(plain), nil
	}
	if format == "base64" {
		raw, err := decodeBase64(data)
		if err != nil {
			return nil, errors.New("Base64 data '" + data + "' is not valid")
		}
		return driver.Secret(raw), nil
	}
	return driver.Secret(data), nil
}

func readSecret(file string) (string, error) {
	st, err := os.Stat(file)
	if err == nil && st.Size() > maxSecret {
		return "", fmt.Errorf("Unable to read %s: larger than %d bytes", file, maxSecret)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = fmt.Errorf("Failed to open file “%s”: %w", file, pe.Err)
		}
		return "", fmt.Errorf("Unable to read %s: %w", file, err)
	}
	return string(content), nil
}

func decodeBase64(text string) ([]byte, error) {
	return base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), ""))
}

// decrypt decrypts a secret with the one that keyID names. Encrypted data are in
// base64, or as they are if the file holds them so.
func (s *Set) decrypt(keyID, ivText string, hasIV bool, data string, inBase64 bool) ([]byte, error) {
	key, err := driver.FindObject[driver.Secret](s, keyID)
	if err != nil {
		return nil, err
	}
	if len(key) != 32 {
		return nil, fmt.Errorf("Key should be 32 bytes in length")
	}
	if !hasIV {
		return nil, errors.New("IV is required to decrypt secret")
	}
	iv, err := decodeBase64(ivText)
	if err != nil {
		return nil, errors.New("Base64 data contains invalid characters")
	}
	if len(iv) != aes.BlockSize {
		return nil, fmt.Errorf("IV should be %d bytes in length not %d", aes.BlockSize, len(iv))
	}
	sealed := []byte(data)
	if inBase64 {
		if sealed, err = decodeBase64(data); err != nil {
			return nil, errors.New("Base64 data contains invalid characters")
		}
	}
	if len(sealed) == 0 || len(sealed)%aes.BlockSize != 0 {
		return nil, fmt.Errorf("Length %d must be a multiple of block size %d", len(sealed), aes.BlockSize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	plain := make([]byte, len(sealed))
	cipher.NewCBCDecrypter(block, iv).CryptBlocks(plain, sealed)
	pad := int(plain[len(plain)-1])
	if pad == 0 || pad > aes.BlockSize || pad > len(plain) {
		return nil, fmt.Errorf("Incorrect number of padding bytes (%d) found on decrypted data", pad)
	}
	return plain[:len(plain)-pad], nil
}
