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

// block implements cipher.Block. It may be used by several goroutines.
type block struct {
	keys [33][4]uint32
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
		k := w[8+4*r:]
		b.keys[r][0], b.keys[r][1], b.keys[r][2], b.keys[r][3] = substitute((35-r)%8, k[0], k[1], k[2], k[3])
	}
}

// BlockSize implements cipher.Block.
func (*block) BlockSize() int { return BlockSize }

// Encrypt implements cipher.Block. dst and src may be the same.
func (b *block) Encrypt(dst, src []byte) {
	x0, x1, x2, x3 := load(src)
	for r := 0; ; r += 8 {
		k := b.keys[r : r+9]
		x0, x1, x2, x3 = sbox0(x0^k[0][0], x1^k[0][1], x2^k[0][2], x3^k[0][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox1(x0^k[1][0], x1^k[1][1], x2^k[1][2], x3^k[1][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox2(x0^k[2][0], x1^k[2][1], x2^k[2][2], x3^k[2][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox3(x0^k[3][0], x1^k[3][1], x2^k[3][2], x3^k[3][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox4(x0^k[4][0], x1^k[4][1], x2^k[4][2], x3^k[4][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox5(x0^k[5][0], x1^k[5][1], x2^k[5][2], x3^k[5][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox6(x0^k[6][0], x1^k[6][1], x2^k[6][2], x3^k[6][3])
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
		x0, x1, x2, x3 = sbox7(x0^k[7][0], x1^k[7][1], x2^k[7][2], x3^k[7][3])
		if r == 24 {
			store(dst, x0^k[8][0], x1^k[8][1], x2^k[8][2], x3^k[8][3])
			return
		}
		x0, x1, x2, x3 = mix(x0, x1, x2, x3)
	}
}

// Decrypt implements cipher.Block. dst and src may be the same.
func (b *block) Decrypt(dst, src []byte) {
	x0, x1, x2, x3 := load(src)
	last := &b.keys[32]
	x0, x1, x2, x3 = x0^last[0], x1^last[1], x2^last[2], x3^last[3]
	for r := 24; ; r -= 8 {
		k := b.keys[r : r+8]
		x0, x1, x2, x3 = inverse7(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[7][0], x1^k[7][1], x2^k[7][2], x3^k[7][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse6(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[6][0], x1^k[6][1], x2^k[6][2], x3^k[6][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse5(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[5][0], x1^k[5][1], x2^k[5][2], x3^k[5][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse4(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[4][0], x1^k[4][1], x2^k[4][2], x3^k[4][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse3(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[3][0], x1^k[3][1], x2^k[3][2], x3^k[3][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse2(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[2][0], x1^k[2][1], x2^k[2][2], x3^k[2][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse1(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[1][0], x1^k[1][1], x2^k[1][2], x3^k[1][3]
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
		x0, x1, x2, x3 = inverse0(x0, x1, x2, x3)
		x0, x1, x2, x3 = x0^k[0][0], x1^k[0][1], x2^k[0][2], x3^k[0][3]
		if r == 0 {
			store(dst, x0, x1, x2, x3)
			return
		}
		x0, x1, x2, x3 = unmix(x0, x1, x2, x3)
	}
}

func load(p []byte) (a, b, c, d uint32) {
	_ = p[15]
	return binary.LittleEndian.Uint32(p), binary.LittleEndian.Uint32(p[4:]), binary.LittleEndian.Uint32(p[8:]), binary.LittleEndian.Uint32(p[12:])
}

func store(p []byte, a, b, c, d uint32) {
	_ = p[15]
	binary.LittleEndian.PutUint32(p, a)
	binary.LittleEndian.PutUint32(p[4:], b)
	binary.LittleEndian.PutUint32(p[8:], c)
	binary.LittleEndian.PutUint32(p[12:], d)
}

// mix is the linear transformation of a round.
func mix(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	a, c = bits.RotateLeft32(a, 13), bits.RotateLeft32(c, 3)
	b = bits.RotateLeft32(b^a^c, 1)
	d = bits.RotateLeft32(d^c^a<<3, 7)
	a ^= b ^ d
	c ^= d ^ b<<7
	return bits.RotateLeft32(a, 5), b, bits.RotateLeft32(c, 22), d
}

// unmix undoes mix.
func unmix(a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	a, c = bits.RotateLeft32(a, -5), bits.RotateLeft32(c, -22)
	c ^= d ^ b<<7
	a ^= b ^ d
	d = bits.RotateLeft32(d, -7) ^ c ^ a<<3
	b = bits.RotateLeft32(b, -1) ^ a ^ c
	return bits.RotateLeft32(a, -13), b, bits.RotateLeft32(c, -3), d
}

// substitute puts 32 inputs through S-box n, side by side.
func substitute(n int, a, b, c, d uint32) (uint32, uint32, uint32, uint32) {
	switch n {
	case 0:
		return sbox0(a, b, c, d)
	case 1:
		return sbox1(a, b, c, d)
	case 2:
		return sbox2(a, b, c, d)
	case 3:
		return sbox3(a, b, c, d)
	case 4:
		return sbox4(a, b, c, d)
	case 5:
		return sbox5(a, b, c, d)
	case 6:
		return sbox6(a, b, c, d)
	default:
		return sbox7(a, b, c, d)
	}
}
