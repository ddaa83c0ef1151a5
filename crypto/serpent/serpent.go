// Package serpent implements the block cipher Serpent (R. Anderson, E. Biham, L. Knudsen:
// "Serpent: A Proposal for the Advanced Encryption Standard", 1998), with blocks of 16
// bytes and keys of 16, 24 or 32, as LUKS disks use it: bytes are in little-endian order.
//
// It works in bit slices: bit i of four words is one input of an S-box, so that a few
// logical operations do 32 of them at once, and no memory is read at an address that
// depends on the key.
package serpent

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
	"math/bits"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 16

// phi is the fractional part of the golden ratio, which the key schedule mixes in.
const phi = 0x9e3779b9

// words holds 128 bits.
type words [4]uint32

// block implements cipher.Block. It may be used by several goroutines.
type block struct {
	keys [33]words
}

// New returns the cipher for a key of 16, 24 or 32 bytes, which it does not keep.
func New(key []byte) (cipher.Block, error) {
	if n := len(key); n != 16 && n != 24 && n != 32 {
		return nil, fmt.Errorf("serpent: the key has %d bytes, not 16, 24 or 32", n)
	}
	b := &block{}
	b.expand(key)
	return b, nil
}

// expand makes the round keys (section 4 of the proposal): the key, padded with a one and
// zeroes to 256 bits, is the start of a sequence of 140 words.
func (b *block) expand(key []byte) {
	var padded [32]byte
	if n := copy(padded[:], key); n < len(padded) {
		padded[n] = 1
	}
	var w [140]uint32
	for i := range 8 {
		w[i] = binary.LittleEndian.Uint32(padded[4*i:])
	}
	for i := 8; i < len(w); i++ {
		w[i] = bits.RotateLeft32(w[i-8]^w[i-5]^w[i-3]^w[i-1]^phi^uint32(i-8), 11)
	}
	for r := range b.keys {
		b.keys[r] = substitute((35-r)%8, words(w[8+4*r:]))
	}
}

// BlockSize implements cipher.Block.
func (*block) BlockSize() int { return BlockSize }

// Encrypt implements cipher.Block. dst and src may be the same.
func (b *block) Encrypt(dst, src []byte) {
	x := load(src)
	for r := range 31 {
		x = mix(substitute(r%8, xor(x, b.keys[r])))
	}
	store(dst, xor(substitute(7, xor(x, b.keys[31])), b.keys[32]))
}

// Decrypt implements cipher.Block. dst and src may be the same.
func (b *block) Decrypt(dst, src []byte) {
	x := xor(restore(7, xor(load(src), b.keys[32])), b.keys[31])
	for r := 30; r >= 0; r-- {
		x = xor(restore(r%8, unmix(x)), b.keys[r])
	}
	store(dst, x)
}

func load(p []byte) words {
	_ = p[15]
	return words{binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:]), binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])}
}

func store(p []byte, x words) {
	_ = p[15]
	binary.LittleEndian.PutUint32(p, x[0])
	binary.LittleEndian.PutUint32(p[4:], x[1])
	binary.LittleEndian.PutUint32(p[8:], x[2])
	binary.LittleEndian.PutUint32(p[12:], x[3])
}

func xor(x, k words) words {
	return words{x[0] ^ k[0], x[1] ^ k[1], x[2] ^ k[2], x[3] ^ k[3]}
}

// mix is the linear transformation of a round.
func mix(x words) words {
	a, b, c, d := bits.RotateLeft32(x[0], 13), x[1], bits.RotateLeft32(x[2], 3), x[3]
	b = bits.RotateLeft32(b^a^c, 1)
	d = bits.RotateLeft32(d^c^a<<3, 7)
	a ^= b ^ d
	c ^= d ^ b<<7
	return words{bits.RotateLeft32(a, 5), b, bits.RotateLeft32(c, 22), d}
}

// unmix undoes mix.
func unmix(x words) words {
	a, b, c, d := bits.RotateLeft32(x[0], -5), x[1], bits.RotateLeft32(x[2], -22), x[3]
	c ^= d ^ b<<7
	a ^= b ^ d
	d = bits.RotateLeft32(d, -7) ^ c ^ a<<3
	b = bits.RotateLeft32(b, -1) ^ a ^ c
	return words{bits.RotateLeft32(a, -13), b, bits.RotateLeft32(c, -3), d}
}

// substitute puts x through S-box n, 32 times side by side.
func substitute(n int, x words) words {
	var y words
	switch n {
	case 0:
		y[0], y[1], y[2], y[3] = sbox0(x[0], x[1], x[2], x[3])
	case 1:
		y[0], y[1], y[2], y[3] = sbox1(x[0], x[1], x[2], x[3])
	case 2:
		y[0], y[1], y[2], y[3] = sbox2(x[0], x[1], x[2], x[3])
	case 3:
		y[0], y[1], y[2], y[3] = sbox3(x[0], x[1], x[2], x[3])
	case 4:
		y[0], y[1], y[2], y[3] = sbox4(x[0], x[1], x[2], x[3])
	case 5:
		y[0], y[1], y[2], y[3] = sbox5(x[0], x[1], x[2], x[3])
	case 6:
		y[0], y[1], y[2], y[3] = sbox6(x[0], x[1], x[2], x[3])
	default:
		y[0], y[1], y[2], y[3] = sbox7(x[0], x[1], x[2], x[3])
	}
	return y
}

// restore undoes substitute.
func restore(n int, x words) words {
	var y words
	switch n {
	case 0:
		y[0], y[1], y[2], y[3] = inverse0(x[0], x[1], x[2], x[3])
	case 1:
		y[0], y[1], y[2], y[3] = inverse1(x[0], x[1], x[2], x[3])
	case 2:
		y[0], y[1], y[2], y[3] = inverse2(x[0], x[1], x[2], x[3])
	case 3:
		y[0], y[1], y[2], y[3] = inverse3(x[0], x[1], x[2], x[3])
	case 4:
		y[0], y[1], y[2], y[3] = inverse4(x[0], x[1], x[2], x[3])
	case 5:
		y[0], y[1], y[2], y[3] = inverse5(x[0], x[1], x[2], x[3])
	case 6:
		y[0], y[1], y[2], y[3] = inverse6(x[0], x[1], x[2], x[3])
	default:
		y[0], y[1], y[2], y[3] = inverse7(x[0], x[1], x[2], x[3])
	}
	return y
}
