package applecrypt

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/binary"
	"io"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	magic2  = "encrcdsa"
	magic1  = "cdsaencr"
	header2 = 76
	header1 = 1276
	block1  = 4096 // bytes of a block in version 1

	// Offsets in the header of version 2.
	offVersion   = 8
	offMode      = 16
	offAlgorithm = 20
	offBits      = 24
	offBlock     = 52
	offSize      = 56
	offData      = 64
	offCount     = 72
	entrySize    = 20 // of the list behind it: type, offset, length

	modeCBC = 5
	algAES  = 0x80000001

	keyPassphrase = 1 // type of an entry

	// Offsets in the record of a passphrase.
	recIterations = 8
	recSaltLen    = 12
	recSalt       = 16
	recIVLen      = 48
	recIV         = 52
	recBlobLen    = 100
	recBlob       = 104

	// Offsets in the header of version 1.
	v1Iterations = 48
	v1SaltLen    = 52
	v1Salt       = 56
	v1AESLen     = 136
	v1AES        = 140
	v1HMACLen    = 436
	v1HMAC       = 440

	maxSalt    = 32
	maxEntries = 16
	maxBlob    = 256
	minBlock   = 512
	maxBlock   = 1 << 20
	hmacKey    = 20
	desKey     = 24

	// maxIterations bounds the work of all key derivations of an image: about a second. Images
	// of macOS have up to half a million.
	maxIterations = 2_000_000
)

var be = binary.BigEndian

// Keys are what a passphrase unlocked, with the layout that the header tells.
type Keys struct {
	block     cipher.Block
	hmac      []byte
	blockSize int64
	offset    int64 // of the data in the file that has the header
	size      int64 // of the data
}

func corrupt(format string, args ...any) error {
	return driver.Errorf(driver.ErrCorrupt, format, args...)
}

// Version returns the version of the encryption of a file, 0 if it is not encrypted.
func Version(ctx context.Context, file driver.Storage) (int, error) {
	head := make([]byte, len(magic2))
	n, err := file.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return 0, err
	}
	if string(head[:n]) == magic2 {
		return 2, nil
	}
	if file.Size() < header1 {
		return 0, nil
	}
	n, err = file.ReadAt(ctx, head, file.Size()-int64(len(head)))
	if err != nil && err != io.EOF {
		return 0, err
	}
	if string(head[:n]) == magic1 {
		return 1, nil
	}
	return 0, nil
}

// Unlock finds the keys of an encrypted file. ErrInvalid: the passphrase is wrong.
func Unlock(ctx context.Context, file driver.Storage, passphrase []byte) (*Keys, error) {
	version, err := Version(ctx, file)
	if err != nil {
		return nil, err
	}
	switch version {
	case 2:
		return unlock2(ctx, file, passphrase)
	case 1:
		return unlock1(ctx, file, passphrase)
	}
	return nil, driver.Errorf(driver.ErrFormat, "the image is not encrypted")
}

func read(ctx context.Context, file driver.Storage, off, n int64, what string) ([]byte, error) {
	if off < 0 || off > file.Size()-n {
		return nil, corrupt("%s of %d bytes at offset %d ends beyond the end of the file", what, n, off)
	}
	b := make([]byte, n)
	if got, err := file.ReadAt(ctx, b, off); got < len(b) {
		if err == nil || err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return nil, driver.Errorf(nil, "could not read %s at offset %d: %w", what, off, err)
	}
	return b, nil
}

var errPassphrase = driver.Errorf(driver.ErrInvalid, "the passphrase does not unlock the image")

func unlock2(ctx context.Context, file driver.Storage, passphrase []byte) (*Keys, error) {
	h, err := read(ctx, file, 0, header2, "the header of the encryption")
	if err != nil {
		return nil, err
	}
	bits := be.Uint32(h[offBits:])
	switch {
	case be.Uint32(h[offVersion:]) != 2, be.Uint32(h[offMode:]) != modeCBC, be.Uint32(h[offAlgorithm:]) != algAES, bits != 128 && bits != 256:
		return nil, driver.Errorf(driver.ErrUnsupported, "encryption of version %d with algorithm %#x, mode %d and %d bits is not known",
			be.Uint32(h[offVersion:]), be.Uint32(h[offAlgorithm:]), be.Uint32(h[offMode:]), bits)
	}
	k := &Keys{blockSize: int64(be.Uint32(h[offBlock:])), size: int64(be.Uint64(h[offSize:])), offset: int64(be.Uint64(h[offData:]))}
	if k.blockSize < minBlock || k.blockSize > maxBlock || k.blockSize&(k.blockSize-1) != 0 {
		return nil, corrupt("blocks of %d bytes cannot be", k.blockSize)
	}
	if k.size < 0 || k.offset < 0 || k.size > 1<<60 || k.offset > 1<<60 {
		return nil, corrupt("%d bytes of data at offset %d cannot be", k.size, k.offset)
	}
	count := int64(be.Uint32(h[offCount:]))
	if count > maxEntries {
		return nil, driver.Errorf(driver.ErrBudget, "the image has %d keys, at most %d are tried", count, maxEntries)
	}
	list, err := read(ctx, file, header2, count*entrySize, "the list of keys")
	if err != nil {
		return nil, err
	}
	work, tried := int64(0), false
	for e := range slices.Chunk(list, entrySize) {
		if be.Uint32(e) != keyPassphrase {
			continue
		}
		tried = true
		ok, err := k.try(ctx, file, int64(be.Uint64(e[4:])), int64(be.Uint64(e[12:])), int(bits/8), passphrase, &work)
		if ok || err != nil {
			return k, err
		}
	}
	if !tried {
		return nil, driver.Errorf(driver.ErrUnsupported, "the image is unlocked by a certificate only, which is not supported")
	}
	return nil, errPassphrase
}

// try takes the keys from a record, if the passphrase is that of the record. work adds up
// the iterations.
func (k *Keys) try(ctx context.Context, file driver.Storage, off, length int64, aesLen int, passphrase []byte, work *int64) (bool, error) {
	if length < recBlob {
		return false, corrupt("the key at offset %d has %d bytes, which are too few", off, length)
	}
	r, err := read(ctx, file, off, min(length, recBlob+maxBlob), "a key")
	if err != nil {
		return false, err
	}
	salt, iv, blob := be.Uint32(r[recSaltLen:]), be.Uint32(r[recIVLen:]), be.Uint32(r[recBlobLen:])
	if salt > maxSalt || iv != des.BlockSize || blob == 0 || blob%des.BlockSize != 0 || int64(blob) > int64(len(r))-recBlob {
		return false, corrupt("the key at offset %d with a salt of %d bytes, an IV of %d and %d wrapped bytes cannot be", off, salt, iv, blob)
	}
	c, err := derive(ctx, passphrase, r[recSalt:recSalt+salt], be.Uint32(r[recIterations:]), work)
	if err != nil {
		return false, err
	}
	plain, ok := decryptPadded(c, r[recIV:recIV+des.BlockSize], r[recBlob:recBlob+blob])
	if !ok || len(plain) < aesLen+hmacKey || !bytes.HasPrefix(plain[aesLen+hmacKey:], []byte("CKIE")) {
		return false, nil
	}
	return true, k.set(plain[:aesLen], plain[aesLen:aesLen+hmacKey])
}

func (k *Keys) set(key, mac []byte) (err error) {
	k.hmac = bytes.Clone(mac)
	k.block, err = aes.NewCipher(key)
	return err
}

// derive makes the cipher that wraps keys.
func derive(ctx context.Context, passphrase, salt []byte, iterations uint32, work *int64) (cipher.Block, error) {
	if *work += int64(iterations); *work > maxIterations {
		return nil, driver.Errorf(driver.ErrBudget, "the keys of the image need %d iterations, at most %d are computed", *work, maxIterations)
	}
	if iterations == 0 {
		return nil, corrupt("a key of no iterations cannot be")
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	key, err := pbkdf2.Key(sha1.New, string(passphrase), salt, int(iterations), desKey)
	if err != nil {
		return nil, err
	}
	return des.NewTripleDESCipher(key)
}

// decryptPadded decrypts CBC with padding as in PKCS #7.
func decryptPadded(c cipher.Block, iv, p []byte) ([]byte, bool) {
	if len(p) == 0 || len(p)%c.BlockSize() != 0 {
		return nil, false
	}
	out := make([]byte, len(p))
	cipher.NewCBCDecrypter(c, iv).CryptBlocks(out, p)
	n := int(out[len(out)-1])
	if n == 0 || n > c.BlockSize() || bytes.Count(out[len(out)-n:], out[len(out)-1:]) != n {
		return nil, false
	}
	return out[:len(out)-n], true
}

// wrapIV is the IV of RFC 3217, section 3.1.
var wrapIV = [des.BlockSize]byte{0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05}

// unwrap takes a key out of two layers of CBC, the inner one backwards (RFC 3217, section 3.2).
// Four bytes precede the key.
func unwrap(c cipher.Block, p []byte, n int) ([]byte, bool) {
	outer, ok := decryptPadded(c, wrapIV[:], p)
	if !ok || len(outer) < des.BlockSize {
		return nil, false
	}
	slices.Reverse(outer)
	inner, ok := decryptPadded(c, outer[:des.BlockSize], outer[des.BlockSize:])
	if !ok || len(inner) < 4+n {
		return nil, false
	}
	return inner[4 : 4+n], true
}

func unlock1(ctx context.Context, file driver.Storage, passphrase []byte) (*Keys, error) {
	h, err := read(ctx, file, file.Size()-header1, header1, "the header of the encryption")
	if err != nil {
		return nil, err
	}
	salt, key, mac := be.Uint32(h[v1SaltLen:]), be.Uint32(h[v1AESLen:]), be.Uint32(h[v1HMACLen:])
	if salt > maxSalt || key != 40 && key != 56 || mac != 48 {
		return nil, corrupt("an encryption with a salt of %d bytes and wrapped keys of %d and %d cannot be", salt, key, mac)
	}
	var work int64
	c, err := derive(ctx, passphrase, h[v1Salt:v1Salt+salt], be.Uint32(h[v1Iterations:]), &work)
	if err != nil {
		return nil, err
	}
	aesKey, ok := unwrap(c, h[v1AES:v1AES+key], int(key)-24)
	if !ok {
		return nil, errPassphrase
	}
	hmacPart, ok := unwrap(c, h[v1HMAC:v1HMAC+mac], hmacKey)
	if !ok {
		return nil, errPassphrase
	}
	k := &Keys{blockSize: block1, size: (file.Size() - header1) &^ (aes.BlockSize - 1)}
	return k, k.set(aesKey, hmacPart)
}
