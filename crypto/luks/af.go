package luks

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"hash"
)

// diffuse spreads every bit of a block over a digest's length: each piece of a
// digest's size becomes the hash of its number and itself (specification 1.2.3,
// section 2.4).
func diffuse(h hash.Hash, block []byte) {
	var number [4]byte
	sum := make([]byte, 0, h.Size())
	for i := 0; len(block) > 0; i++ {
		n := min(len(block), h.Size())
		binary.BigEndian.PutUint32(number[:], uint32(i))
		h.Reset()
		h.Write(number[:])
		h.Write(block[:n])
		copy(block[:n], h.Sum(sum))
		block = block[n:]
	}
}

// afSplit spreads a key over stripes of its length, of which every one is needed to
// recover it.
func afSplit(newHash func() hash.Hash, key []byte, stripes int) []byte {
	n := len(key)
	out := make([]byte, n*stripes)
	h, d := newHash(), make([]byte, n)
	rand.Read(out[:n*(stripes-1)])
	for i := range stripes - 1 {
		subtle.XORBytes(d, d, out[i*n:(i+1)*n])
		diffuse(h, d)
	}
	subtle.XORBytes(out[n*(stripes-1):], d, key)
	clear(d)
	return out
}

// afMerge is the reverse of afSplit.
func afMerge(newHash func() hash.Hash, split []byte, stripes int) []byte {
	n := len(split) / stripes
	h, d := newHash(), make([]byte, n)
	for i := range stripes - 1 {
		subtle.XORBytes(d, d, split[i*n:(i+1)*n])
		diffuse(h, d)
	}
	subtle.XORBytes(d, d, split[n*(stripes-1):])
	return d
}
