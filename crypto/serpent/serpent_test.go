package serpent

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

// tables are the S-boxes as the proposal prints them (appendix A.5).
var tables = [8][16]uint32{
	{3, 8, 15, 1, 10, 6, 5, 11, 14, 13, 4, 2, 7, 0, 9, 12},
	{15, 12, 2, 7, 9, 0, 5, 10, 1, 11, 14, 8, 6, 13, 3, 4},
	{8, 6, 7, 9, 3, 12, 10, 15, 13, 1, 14, 4, 0, 11, 5, 2},
	{0, 15, 11, 8, 12, 9, 6, 3, 13, 1, 2, 4, 10, 7, 5, 14},
	{1, 15, 8, 3, 12, 0, 11, 6, 2, 5, 4, 10, 9, 14, 7, 13},
	{15, 5, 2, 11, 4, 10, 9, 12, 0, 3, 14, 8, 13, 6, 7, 1},
	{7, 2, 12, 5, 8, 4, 6, 11, 14, 9, 1, 15, 13, 3, 10, 0},
	{1, 13, 15, 0, 14, 8, 2, 11, 7, 4, 12, 10, 9, 3, 5, 6},
}

// TestBoxes puts every input through each box in one call, one input at each of 16
// positions.
func TestBoxes(t *testing.T) {
	inverse := []func(a, b, c, d uint32) (uint32, uint32, uint32, uint32){
		inverse0, inverse1, inverse2, inverse3, inverse4, inverse5, inverse6, inverse7}
	var in [4]uint32
	for x := range 16 {
		for bit := range in {
			in[bit] |= uint32(x>>bit&1) << x
		}
	}
	at := func(w [4]uint32, x int) (v uint32) {
		for bit := range w {
			v |= w[bit] >> x & 1 << bit
		}
		return v
	}
	for n, table := range tables {
		var out, back [4]uint32
		out[0], out[1], out[2], out[3] = substitute(n, in[0], in[1], in[2], in[3])
		back[0], back[1], back[2], back[3] = inverse[n](out[0], out[1], out[2], out[3])
		for x, want := range table {
			if got := at(out, x); got != want {
				t.Errorf("S%d(%d) = %d, not %d", n, x, got, want)
			}
			if got := at(back, x); got != uint32(x) {
				t.Errorf("inverse %d of %d is %d, not %d", n, want, got, x)
			}
		}
	}
}

// TestVectors: NESSIE's set 1, vector 0, for each size of key, and counted bytes.
func TestVectors(t *testing.T) {
	for _, v := range []struct{ key, plain, cipher string }{
		{"80000000000000000000000000000000", "00000000000000000000000000000000", "264e5481eff42a4606abda06c0bfda3d"},
		{"800000000000000000000000000000000000000000000000", "00000000000000000000000000000000", "9e274ead9b737bb21efcfca548602689"},
		{"8000000000000000000000000000000000000000000000000000000000000000", "00000000000000000000000000000000", "a223aa1288463c0e2be38ebd825616c0"},
		{"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", "000102030405060708090a0b0c0d0e0f", "de269ff833e432b85b2e88d2701ce75c"},
	} {
		key, plain, want := unhex(t, v.key), unhex(t, v.plain), unhex(t, v.cipher)
		b, err := New(key)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, BlockSize)
		b.Encrypt(got, plain)
		if !bytes.Equal(got, want) {
			t.Errorf("key %s: %x, not %s", v.key, got, v.cipher)
		}
		b.Decrypt(got, got)
		if !bytes.Equal(got, plain) {
			t.Errorf("key %s: decrypting gives %x", v.key, got)
		}
	}
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	p, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		key, plain, got := random(r, 16+8*r.IntN(3)), random(r, BlockSize), make([]byte, BlockSize)
		b, err := New(key)
		if err != nil {
			t.Fatal(err)
		}
		b.Encrypt(got, plain)
		if bytes.Equal(got, plain) {
			t.Fatal("nothing is encrypted")
		}
		if b.Decrypt(got, got); !bytes.Equal(got, plain) {
			t.Fatalf("key %x: %x becomes %x", key, plain, got)
		}
	}
}

func random(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

func TestKeySizes(t *testing.T) {
	for n := range 40 {
		if _, err := New(make([]byte, n)); (err == nil) != (n == 16 || n == 24 || n == 32) {
			t.Errorf("a key of %d bytes: %v", n, err)
		}
	}
}

func BenchmarkEncrypt(b *testing.B) {
	c, err := New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	var p [BlockSize]byte
	b.SetBytes(BlockSize)
	for b.Loop() {
		c.Encrypt(p[:], p[:])
	}
}

func BenchmarkDecrypt(b *testing.B) {
	c, err := New(make([]byte, 32))
	if err != nil {
		b.Fatal(err)
	}
	var p [BlockSize]byte
	b.SetBytes(BlockSize)
	for b.Loop() {
		c.Decrypt(p[:], p[:])
	}
}
