package luks

import (
	"bytes"
	"context"
	"crypto/hmac"
	stdpbkdf2 "crypto/pbkdf2"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/crypto/sector"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// fast makes key slots that cost next to nothing.
const fast = time.Nanosecond

var secret = []byte("correct horse")

func create(t testing.TB, o CreateOptions) (*memArea, *Header, *Key) {
	t.Helper()
	o.IterTime = fast
	m := &memArea{}
	h, k, err := Create(t.Context(), m, o, secret)
	if err != nil {
		t.Fatal(err)
	}
	size, err := HeaderSize(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.WriteAt(t.Context(), make([]byte, size-int64(len(m.b))), int64(len(m.b))); err != nil {
		t.Fatal(err)
	}
	return m, h, k
}

func TestCreateAndUnlock(t *testing.T) {
	for _, o := range []CreateOptions{
		{}, {CipherAlg: "aes-128", CipherMode: "cbc", IVGenAlg: "essiv"}, {CipherAlg: "serpent-192", HashAlg: "sha512"},
		{CipherAlg: "twofish-256", IVGenAlg: "plain", HashAlg: "ripemd160"}, {CipherAlg: "cast5-128", CipherMode: "cbc", HashAlg: "md5"},
		{CipherAlg: "aes-192", CipherMode: "ctr", HashAlg: "sha1"}, {CipherMode: "ecb", HashAlg: "sm3"}, {Detached: true},
	} {
		t.Run(fmt.Sprintf("%s-%s-%s-%s", o.CipherAlg, o.CipherMode, o.IVGenAlg, o.HashAlg), func(t *testing.T) {
			m, made, key := create(t, o)
			h, err := OpenWith(t.Context(), m, int64(len(m.b)), OpenOptions{Detached: o.Detached})
			if err != nil {
				t.Fatal(err)
			}
			got, err := h.Unlock(t.Context(), secret)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got.bytes, key.bytes) || got.Slot() != 0 || h.UUID != made.UUID || h.Spec != made.Spec {
				t.Errorf("what was opened differs from what was created")
			}
			if _, err := h.Cipher(got); err != nil {
				t.Error(err)
			}
			size, _ := HeaderSize(o)
			if o.Detached {
				size = 0
			}
			if h.PayloadOffset != size {
				t.Errorf("payload at %d, want %d", h.PayloadOffset, size)
			}
			if _, err := h.Unlock(t.Context(), []byte("wrong")); !errors.Is(err, ErrPassphrase) {
				t.Errorf("wrong passphrase: %v", err)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	for _, c := range []struct {
		o    CreateOptions
		want string
	}{
		{CreateOptions{CipherAlg: "rot13"}, "parameter 'cipher-alg' does not accept value 'rot13'"},
		{CreateOptions{CipherMode: "gcm"}, "parameter 'cipher-mode' does not accept value 'gcm'"},
		{CreateOptions{IVGenAlg: "x"}, "parameter 'ivgen-alg' does not accept value 'x'"},
		{CreateOptions{IVGenHashAlg: "x"}, "parameter 'ivgen-hash-alg' does not accept value 'x'"},
		{CreateOptions{HashAlg: "x"}, "parameter 'hash-alg' does not accept value 'x'"},
		{CreateOptions{CipherAlg: "3des"}, "algorithm '3des' not supported"},
		{CreateOptions{CipherAlg: "cast5-128"}, "unsupported cipher mode xts"},
		{CreateOptions{CipherAlg: "cast5-128", CipherMode: "cbc", IVGenAlg: "essiv"}, "cipher cast5-128 not supported with essiv"},
		{CreateOptions{CipherMode: "cbc", IVGenAlg: "essiv", IVGenHashAlg: "sha1"}, "no AES cipher with key size 20 available"},
	} {
		if _, err := HeaderSize(c.o); err == nil || err.Error() != c.want {
			t.Errorf("HeaderSize(%+v): %v, want %s", c.o, err, c.want)
		}
		if _, _, err := Create(t.Context(), &memArea{}, c.o, secret); err == nil || err.Error() != c.want {
			t.Errorf("Create(%+v): %v, want %s", c.o, err, c.want)
		}
	}
}

func TestIterTime(t *testing.T) {
	for _, ms := range []int64{-1, 99999999999999, 1 << 62} {
		if _, _, err := Create(t.Context(), &memArea{}, CreateOptions{IterTime: IterTime(ms)}, secret); !errors.Is(err, ErrInvalid) {
			t.Errorf("%d ms: %v", ms, err)
		}
	}
	m, _, _ := create(t, CreateOptions{})
	if s := openArea(t, m).v1.slots[0]; s.iters != minIterations {
		t.Errorf("%d iterations for no time", s.iters)
	}
	m = &memArea{}
	h, _, err := Create(t.Context(), m, CreateOptions{IterTime: 500 * time.Millisecond}, secret)
	if err != nil {
		t.Fatal(err)
	}
	if n := h.v1.slots[0].iters; n <= minIterations {
		t.Errorf("%d iterations for half a second", n)
	}
}

// TestPBKDF2 compares with the implementation of the standard library.
func TestPBKDF2(t *testing.T) {
	salt := []byte("some salt of some length")
	for _, name := range hashNames {
		newHash, err := sector.Hash(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, password := range []string{"", "x", string(bytes.Repeat([]byte("long "), 50))} {
			for _, iters := range []int{1, 2, 101, checkEvery + 2} {
				if iters > 1000 && (testkit.Race || len(password) != 1) {
					continue
				}
				for _, n := range []int{1, 20, 32, 64, 100} {
					want, err := stdpbkdf2.Key(newHash, password, salt, iters, n)
					if err != nil {
						t.Fatal(err)
					}
					got, err := pbkdf2(t.Context(), newHash, []byte(password), salt, iters, n)
					if err != nil || !bytes.Equal(got, want) {
						t.Errorf("%s, password of %d, %d iterations, %d bytes: differs (%v)", name, len(password), iters, n, err)
					}
				}
			}
		}
	}
}

// TestFastHMAC checks that the hashes that matter take the short way.
func TestFastHMAC(t *testing.T) {
	for _, name := range []string{"sha1", "sha256", "sha512"} {
		newHash, _ := sector.Hash(name)
		if newFastHMAC(newHash, []byte("key")) == nil {
			t.Errorf("%s: takes the long way", name)
		}
	}
	newHash, _ := sector.Hash("sha256")
	p := newPRF(newHash, []byte("key"))
	u := make([]byte, 32)
	p.iterate(make([]byte, 32), u, 1)
	mac := hmac.New(newHash, []byte("key"))
	mac.Write(make([]byte, 32))
	if !bytes.Equal(u, mac.Sum(nil)) {
		t.Error("differs from HMAC")
	}
}

// TestCancel checks that iterations without end are given up with the context.
func TestCancel(t *testing.T) {
	m, _, _ := create(t, CreateOptions{})
	h := openArea(t, m)
	h.v1.slots[0].iters = 1<<32 - 1
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if _, err := h.Unlock(ctx, secret); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("took %v", d)
	}
}

func TestAFSplit(t *testing.T) {
	for _, name := range hashNames {
		newHash, _ := sector.Hash(name)
		for _, n := range []int{16, 20, 33, 64, 128} {
			key := bytes.Repeat([]byte{0x5a}, n)
			for _, stripes := range []int{1, 2, 100} {
				split := afSplit(newHash, key, stripes)
				if !bytes.Equal(afMerge(newHash, split, stripes), key) {
					t.Errorf("%s, %d bytes, %d stripes: lost", name, n, stripes)
				}
				if stripes == 1 {
					continue
				}
				split[0] ^= 1
				if bytes.Equal(afMerge(newHash, split, stripes), key) {
					t.Errorf("%s, %d bytes: one stripe does not matter", name, n)
				}
			}
		}
	}
}

func BenchmarkPBKDF2(b *testing.B) {
	for _, name := range []string{"sha1", "sha256", "sha512", "ripemd160"} {
		newHash, _ := sector.Hash(name)
		b.Run(name, func(b *testing.B) {
			p := newPRF(newHash, secret)
			out := make([]byte, newHash().Size())
			p.iterate(out, bytes.Clone(out), b.N)
		})
	}
}
