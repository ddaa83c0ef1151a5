package sector

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/xts"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustNew(t testing.TB, spec Spec, key []byte, size int) *Cipher {
	t.Helper()
	c, err := New(spec, key, size)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// The vectors of IEEE Std 1619-2007, annex B, as far as they are of use: 1 and 2
// are shorter than a sector and are the start of one.
func TestStandardXTS(t *testing.T) {
	count := make([]byte, 512)
	for i := range count {
		count[i] = byte(i)
	}
	for _, v := range []struct {
		name, key   string
		sector      uint64
		plain       []byte
		start, tail string
	}{
		{"1", strings.Repeat("00", 32), 0, make([]byte, 512), "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e", ""},
		{"2", strings.Repeat("11", 16) + strings.Repeat("22", 16), 0x3333333333, bytes.Repeat([]byte{0x44}, 512),
			"c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0", ""},
		{"4", "27182818284590452353602874713526" + "31415926535897932384626433832795", 0, count,
			"27a7479befa1d476489f308cd4cfa6e2", "eb4a427d1923ce3ff262735779a418f20a282df920147beabe421ee5319d0568"},
		{"10", "2718281828459045235360287471352662497757247093699959574966967627" +
			"3141592653589793238462643383279502884197169399375105820974944592", 0xff, count, "1c3b3a102f770386e4836c99e370cf9b", ""},
	} {
		t.Run(v.name, func(t *testing.T) {
			c := mustNew(t, Spec{Cipher: "aes", Mode: "xts", IVGen: "plain64"}, unhex(t, v.key), 512)
			got := make([]byte, 512)
			c.Encrypt(got, v.plain, v.sector)
			if want := unhex(t, v.start); !bytes.HasPrefix(got, want) {
				t.Errorf("starts with %x, want %x", got[:len(want)], want)
			}
			if want := unhex(t, v.tail); !bytes.HasSuffix(got, want) {
				t.Errorf("ends with %x, want %x", got[512-len(want):], want)
			}
			c.Decrypt(got, got, v.sector)
			if !bytes.Equal(got, v.plain) {
				t.Error("decrypting does not give the plain text back")
			}
		})
	}
}

// Single blocks of the NESSIE and the authors' vectors, through ECB.
func TestStandardBlocks(t *testing.T) {
	for _, v := range []struct{ cipher, key, plain, want string }{
		{"aes", "000102030405060708090a0b0c0d0e0f", "00112233445566778899aabbccddeeff", "69c4e0d86a7b0430d8cdb78070b4c55a"},
		{"serpent", "80000000000000000000000000000000", "00000000000000000000000000000000", "264e5481eff42a4606abda06c0bfda3d"},
		{"twofish", "00000000000000000000000000000000", "00000000000000000000000000000000", "9f589f5cf6122c32b6bfec2f2ae8c35a"},
		{"cast5", "0123456712345678234567893456789a", "0123456789abcdef", "238b4fe5847e44b2"},
		{"sm4", "0123456789abcdeffedcba9876543210", "0123456789abcdeffedcba9876543210", "681edf34d206965e86b3e94f536e4246"},
	} {
		c := mustNew(t, Spec{Cipher: v.cipher, Mode: "ecb"}, unhex(t, v.key), 512)
		plain := bytes.Repeat(unhex(t, v.plain), 512/(len(v.plain)/2))
		got := make([]byte, 512)
		c.Encrypt(got, plain, 7)
		if want := bytes.Repeat(unhex(t, v.want), 512/(len(v.want)/2)); !bytes.Equal(got, want) {
			t.Errorf("%s: %x, want %s", v.cipher, got[:16], v.want)
		}
	}
}

func ivOf(spec Spec, key []byte, block int, sector uint64) []byte {
	iv := make([]byte, 16)
	switch spec.IVGen {
	case "plain":
		binary.LittleEndian.PutUint32(iv, uint32(sector))
	case "plain64", "essiv":
		binary.LittleEndian.PutUint64(iv, sector)
	case "plain64be":
		binary.BigEndian.PutUint64(iv[block-8:], sector)
	}
	iv = iv[:block]
	if spec.IVGen == "essiv" {
		sum := sha256.Sum256(key)
		b, err := newBlock(spec.Cipher, sum[:])
		if err != nil {
			panic(err)
		}
		b.Encrypt(iv, iv)
	}
	return iv
}

// reference encrypts one sector with the modes of the standard library and of
// golang.org/x/crypto.
func reference(t *testing.T, spec Spec, key, plain []byte, sector uint64) []byte {
	out := make([]byte, len(plain))
	if spec.Mode == "xts" {
		x, err := xts.NewCipher(func(k []byte) (cipher.Block, error) { return newBlock(spec.Cipher, k) }, key)
		if err != nil {
			t.Fatal(err)
		}
		x.Encrypt(out, plain, sector)
		return out
	}
	b, err := newBlock(spec.Cipher, key)
	if err != nil {
		t.Fatal(err)
	}
	iv := ivOf(spec, key, b.BlockSize(), sector)
	switch spec.Mode {
	case "cbc":
		cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, plain)
	case "ctr":
		cipher.NewCTR(b, iv).XORKeyStream(out, plain)
	case "ecb":
		for i := 0; i < len(plain); i += b.BlockSize() {
			b.Encrypt(out[i:], plain[i:])
		}
	}
	return out
}

func TestAgainstReference(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for _, name := range []string{"aes", "serpent", "twofish", "cast5", "3des", "sm4"} {
		for _, mode := range []string{"xts", "cbc", "ecb", "ctr"} {
			for _, gen := range []string{"plain", "plain64", "plain64be", "essiv", "null"} {
				small := name == "cast5" || name == "3des" || name == "sm4"
				if small && (gen == "essiv" || mode == "xts" && name != "sm4") || mode == "xts" && gen != "plain64" {
					continue
				}
				for _, size := range []int{512, 1024, 4096} {
					spec := Spec{Cipher: name, Mode: mode, IVGen: gen, IVHash: "sha256"}
					sizes, _ := lookup(name)
					n := sizes[rnd.Intn(len(sizes))]
					if mode == "xts" {
						n *= 2
					}
					key := make([]byte, n)
					rnd.Read(key)
					c := mustNew(t, spec, key, size)
					const sectors = 7
					plain := make([]byte, sectors*size)
					rnd.Read(plain)
					first := rnd.Uint64() >> uint(rnd.Intn(63))
					got := make([]byte, len(plain))
					c.Encrypt(got, plain, first)
					for i := range sectors {
						p := plain[i*size : (i+1)*size]
						want := reference(t, spec, key, p, first+uint64(i*size/512))
						if !bytes.Equal(got[i*size:(i+1)*size], want) {
							t.Fatalf("%+v, %d-byte sectors, key of %d: sector %d of %d differs", spec, size, len(key), i, first)
						}
					}
					back := make([]byte, len(plain))
					c.Decrypt(back, got, first)
					if !bytes.Equal(back, plain) {
						t.Fatalf("%+v: decrypting into another buffer", spec)
					}
					c.Encrypt(back, back, first)
					if !bytes.Equal(back, got) {
						t.Fatalf("%+v: encrypting in place", spec)
					}
					c.Decrypt(got, got, first)
					if !bytes.Equal(got, plain) {
						t.Fatalf("%+v: decrypting in place", spec)
					}
				}
			}
		}
	}
}

func TestRefused(t *testing.T) {
	for _, v := range []struct {
		spec Spec
		key  int
		size int
		want string
	}{
		{Spec{Cipher: "rot13", Mode: "cbc", IVGen: "plain"}, 16, 512, "algorithm 'rot13' not supported"},
		{Spec{Cipher: "aes", Mode: "cfb", IVGen: "plain"}, 16, 512, "cipher mode 'cfb' is not supported"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "lmk"}, 16, 512, "IV generator 'lmk' is not supported"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "essiv", IVHash: "crc"}, 16, 512, "hash algorithm 'crc' is not supported"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "essiv", IVHash: "sha1"}, 16, 512, "no aes cipher with key size 20 available"},
		{Spec{Cipher: "cast5", Mode: "xts", IVGen: "plain"}, 32, 512, "cipher mode 'xts' needs a block size of 16 bytes"},
		{Spec{Cipher: "aes", Mode: "xts", IVGen: "plain"}, 16, 512, "no aes cipher with key size 8 available"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain"}, 0, 512, "no aes cipher with key size 0 available"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain"}, 16, 8192, "sector size 8192"},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain"}, 16, 0, "sector size 0"},
	} {
		_, err := New(v.spec, make([]byte, v.key), v.size)
		if err == nil || !strings.Contains(err.Error(), v.want) || !errors.Is(err, ErrUnsupported) {
			t.Errorf("%+v: %v, want %q", v.spec, err, v.want)
		}
	}
	if _, err := New(Spec{Cipher: "aes", Mode: "xts", IVGen: "plain"}, make([]byte, 33), 512); err == nil {
		t.Error("an odd key for xts is taken")
	}
}

func TestHashes(t *testing.T) {
	for name, want := range map[string]string{
		"md5":       "900150983cd24fb0d6963f7d28e17f72",
		"sha1":      "a9993e364706816aba3e25717850c26c9cd0d89d",
		"sha224":    "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
		"sha256":    "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
		"sha384":    "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded163",
		"sha512":    "ddaf35a193617abacc417349ae204131",
		"ripemd160": "8eb208f7e05d987a9b044a8e98c6b087f15a0bfc",
		"sm3":       "66c7f0f462eeedd9d1f2d46bdc10e4e24167c4875cf2f7a2297da02b8f4ba8e0",
	} {
		newHash, err := Hash(name)
		if err != nil {
			t.Fatal(err)
		}
		h := newHash()
		h.Write([]byte("abc"))
		if got := hex.EncodeToString(h.Sum(nil)); !strings.HasPrefix(got, want) {
			t.Errorf("%s: %s, want %s…", name, got, want)
		}
	}
}

func TestConcurrentUse(t *testing.T) {
	for _, mode := range []string{"xts", "cbc", "ctr"} {
		c := mustNew(t, Spec{Cipher: "aes", Mode: mode, IVGen: "plain64"}, bytes.Repeat([]byte{1, 2}, 16), 512)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				plain := bytes.Repeat([]byte{byte(g)}, 4096)
				buf := make([]byte, 4096)
				for i := range 50 {
					c.Encrypt(buf, plain, uint64(i))
					c.Decrypt(buf, buf, uint64(i))
					if !bytes.Equal(buf, plain) {
						t.Errorf("%s: goroutine %d got other bytes", mode, g)
						return
					}
				}
			})
		}
		wg.Wait()
	}
}

func BenchmarkCipher(b *testing.B) {
	for _, v := range []struct {
		spec Spec
		key  int
	}{
		{Spec{Cipher: "aes", Mode: "xts", IVGen: "plain64"}, 64},
		{Spec{Cipher: "aes", Mode: "xts", IVGen: "plain64"}, 32},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "essiv", IVHash: "sha256"}, 32},
		{Spec{Cipher: "aes", Mode: "cbc", IVGen: "plain64"}, aes.BlockSize},
		{Spec{Cipher: "serpent", Mode: "xts", IVGen: "plain64"}, 64},
		{Spec{Cipher: "twofish", Mode: "xts", IVGen: "plain64"}, 64},
	} {
		c := mustNew(b, v.spec, bytes.Repeat([]byte{3}, v.key), 512)
		buf := make([]byte, 64<<10)
		for _, dir := range []struct {
			name string
			fn   func(dst, src []byte, sector uint64)
		}{{"encrypt", c.Encrypt}, {"decrypt", c.Decrypt}} {
			b.Run(fmt.Sprintf("%s-%s-%d/%s", v.spec.Cipher, v.spec.Mode, v.key*8, dir.name), func(b *testing.B) {
				b.SetBytes(int64(len(buf)))
				b.ReportAllocs()
				for b.Loop() {
					dir.fn(buf, buf, 5)
				}
			})
		}
	}
}
