// Package applecrypttest makes encrypted images for tests, from the published description
// of the format and without the code that reads them.
package applecrypttest

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/sha1"
	"encoding/binary"
	"slices"
)

// Image says how to encrypt.
type Image struct {
	Passphrase string
	Bits       int // of the AES key
	Block      int // bytes, version 2
	Iterations int
}

const hmacKey = "hmac key of twenty B"

func (i *Image) aesKey() []byte { return bytes.Repeat([]byte{0x5a, 3}, i.Bits/16) }

func (i *Image) kek(salt []byte) cipher.Block {
	key, err := pbkdf2.Key(sha1.New, i.Passphrase, salt, i.Iterations, 24)
	if err != nil {
		panic(err)
	}
	c, err := des.NewTripleDESCipher(key)
	if err != nil {
		panic(err)
	}
	return c
}

// Data encrypts the data of an image, or of a band, whose last block is filled up.
func (i *Image) Data(plain []byte, block int) []byte {
	out := append([]byte(nil), plain...)
	if r := len(out) % block; r != 0 {
		out = append(out, make([]byte, block-r)...)
	}
	c, err := aes.NewCipher(i.aesKey())
	if err != nil {
		panic(err)
	}
	for n := 0; n*block < len(out); n++ {
		mac := hmac.New(sha1.New, []byte(hmacKey))
		_ = binary.Write(mac, binary.BigEndian, uint32(n))
		p := out[n*block : (n+1)*block]
		cipher.NewCBCEncrypter(c, mac.Sum(nil)[:16]).CryptBlocks(p, p)
	}
	return out
}

func pad(p []byte, unit int) []byte {
	n := unit - len(p)%unit
	return append(bytes.Clone(p), bytes.Repeat([]byte{byte(n)}, n)...)
}

func put(b []byte, off int, v uint32) { binary.BigEndian.PutUint32(b[off:], v) }

// Header2 is the header of version 2, with the data of size bytes at offset 8192; before the
// record of the passphrase there is one of a certificate.
func (i *Image) Header2(size int) []byte {
	b := make([]byte, 8192)
	copy(b, "encrcdsa")
	for off, v := range map[int]uint32{8: 2, 12: 16, 16: 5, 20: 0x80000001, 24: uint32(i.Bits), 28: 91, 32: 160, 52: uint32(i.Block), 60: uint32(size), 68: 8192, 72: 2,
		76: 2, 84: 4096, 92: 128, 96: 1, 104: 1024, 112: 616} {
		put(b, off, v)
	}
	salt := []byte("salt of twenty bytes")
	wrapped := pad(append(append(i.aesKey(), hmacKey...), "CKIE\x00"...), 8)
	iv := []byte("8 bytes!")
	cipher.NewCBCEncrypter(i.kek(salt), iv).CryptBlocks(wrapped, wrapped)
	r := b[1024:]
	for off, v := range map[int]uint32{0: 103, 8: uint32(i.Iterations), 12: uint32(len(salt)), 48: 8, 84: 192, 88: 17, 92: 7, 96: 6, 100: uint32(len(wrapped))} {
		put(r, off, v)
	}
	copy(r[16:], salt)
	copy(r[52:], iv)
	copy(r[104:], wrapped)
	return b
}

// Version2 is an image of version 2.
func (i *Image) Version2(plain []byte) []byte {
	return append(i.Header2(len(plain)), i.Data(plain, i.Block)...)
}

// Version1 is an image of version 1.
func (i *Image) Version1(plain []byte) []byte {
	h := make([]byte, 1276)
	salt := []byte("salt of twenty bytes")
	put(h, 48, uint32(i.Iterations))
	put(h, 52, uint32(len(salt)))
	copy(h[56:], salt)
	wrap := func(key []byte, off int) {
		c := i.kek(salt)
		inner := pad(append([]byte{0, 0, 0, 1}, key...), 8)
		iv := []byte("inner IV")
		cipher.NewCBCEncrypter(c, iv).CryptBlocks(inner, inner)
		outer := append(iv, inner...)
		slices.Reverse(outer)
		outer = pad(outer, 8)
		cipher.NewCBCEncrypter(c, []byte{0x4a, 0xdd, 0xa2, 0x2c, 0x79, 0xe8, 0x21, 0x05}).CryptBlocks(outer, outer)
		put(h, off, uint32(len(outer)))
		copy(h[off+4:], outer)
	}
	wrap(i.aesKey(), 136)
	wrap([]byte(hmacKey), 436)
	copy(h[len(h)-8:], "cdsaencr")
	return append(i.Data(plain, 4096), h...)
}
