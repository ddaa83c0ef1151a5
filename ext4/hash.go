package ext4

import (
	"encoding/binary"
	"math/bits"
)

const hashHalfMD4 = 1

// nameHash is the hash of a name in an indexed directory: half of MD4, with signed
// characters. Its lowest bit is clear.
func nameHash(name string, seed [16]byte) uint32 {
	state := [4]uint32{0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476}
	if seed != [16]byte{} {
		for i := range state {
			state[i] = binary.LittleEndian.Uint32(seed[4*i:])
		}
	}
	for left := name; len(left) > 0; left = left[min(32, len(left)):] {
		in := hashWords(left)
		halfMD4(&state, &in)
	}
	h := state[1] &^ 1
	if h == 0xfffffffe { // the end of a directory, for readers
		h = 0xfffffffc
	}
	return h
}

// hashWords packs up to 32 bytes of a name, padded with its length.
func hashWords(s string) (words [8]uint32) {
	pad := uint32(len(s)) | uint32(len(s))<<8
	pad |= pad << 16
	n := min(len(s), 32)
	for i := range words {
		words[i] = pad
	}
	for i := 0; i < n; i += 4 {
		v := pad
		for k := i; k < min(i+4, n); k++ {
			v = uint32(int32(int8(s[k]))) + v<<8
		}
		words[i/4] = v
	}
	return words
}

// halfMD4 is the compression function: three rounds of eight steps.
func halfMD4(state *[4]uint32, in *[8]uint32) {
	a, b, c, d := state[0], state[1], state[2], state[3]
	f := func(x, y, z uint32) uint32 { return z ^ x&(y^z) }
	g := func(x, y, z uint32) uint32 { return x&y + (x^y)&z }
	h := func(x, y, z uint32) uint32 { return x ^ y ^ z }
	const k2, k3 = 0x5a827999, 0x6ed9eba1
	for _, r := range []struct {
		f      func(x, y, z uint32) uint32
		k      uint32
		order  [8]int
		shifts [4]int
	}{
		{f, 0, [8]int{0, 1, 2, 3, 4, 5, 6, 7}, [4]int{3, 7, 11, 19}},
		{g, k2, [8]int{1, 3, 5, 7, 0, 2, 4, 6}, [4]int{3, 5, 9, 13}},
		{h, k3, [8]int{3, 7, 2, 6, 1, 5, 0, 4}, [4]int{3, 9, 11, 15}},
	} {
		for i, k := range r.order {
			a = bits.RotateLeft32(a+r.f(b, c, d)+in[k]+r.k, r.shifts[i%4])
			a, b, c, d = d, a, b, c
		}
	}
	state[0] += a
	state[1] += b
	state[2] += c
	state[3] += d
}
