package sector

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/des"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"hash"

	"github.com/emmansun/gmsm/sm3"
	"github.com/emmansun/gmsm/sm4"
	"golang.org/x/crypto/cast5"     //lint:ignore SA1019 disks that are encrypted with it exist
	"golang.org/x/crypto/ripemd160" //lint:ignore SA1019 disks that are encrypted with it exist
	"golang.org/x/crypto/twofish"   //lint:ignore SA1019 disks that are encrypted with it exist

	"github.com/cowl-disk/cowl/crypto/serpent"
)

// lookup returns the lengths in bytes of the keys of a block cipher, and its
// constructor; nil if there is none of that name.
func lookup(name string) (sizes []int, make func(key []byte) (cipher.Block, error)) {
	switch name {
	case "aes":
		return []int{16, 24, 32}, aes.NewCipher
	case "serpent":
		return []int{16, 24, 32}, serpent.New
	case "twofish":
		return []int{16, 24, 32}, func(key []byte) (cipher.Block, error) { return twofish.NewCipher(key) }
	case "cast5":
		return []int{16}, func(key []byte) (cipher.Block, error) { return cast5.NewCipher(key) }
	case "3des", "des3_ede":
		return []int{24}, des.NewTripleDESCipher
	case "sm4":
		return []int{16}, sm4.NewCipher
	}
	return nil, nil
}

func newBlock(name string, key []byte) (cipher.Block, error) {
	sizes, make := lookup(name)
	if make == nil {
		return nil, unsupported("algorithm '%s' not supported", name)
	}
	for _, n := range sizes {
		if n == len(key) {
			return make(key)
		}
	}
	return nil, unsupported("no %s cipher with key size %d available", name, len(key))
}

// Hash returns the constructor of a hash: md5, sha1, sha224, sha256, sha384,
// sha512, ripemd160 or sm3.
func Hash(name string) (func() hash.Hash, error) {
	switch name {
	case "md5":
		return md5.New, nil
	case "sha1":
		return sha1.New, nil
	case "sha224":
		return sha256.New224, nil
	case "sha256":
		return sha256.New, nil
	case "sha384":
		return sha512.New384, nil
	case "sha512":
		return sha512.New, nil
	case "ripemd160":
		return ripemd160.New, nil
	case "sm3":
		return sm3.New, nil
	}
	return nil, unsupported("hash algorithm '%s' is not supported", name)
}
