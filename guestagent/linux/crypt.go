//go:build linux

package linux

import (
	"crypto/rand"
	"crypto/sha512"
	"errors"
)

// cryptRounds is the number of rounds that a hash without "rounds=" has.
const cryptRounds = 5000

const cryptAlphabet = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// maxPassword bounds a password, in bytes: the hash takes time in proportion.
const maxPassword = 1024

func randomSalt() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // does not fail
	for i := range b {
		b[i] = cryptAlphabet[b[i]&63]
	}
	return string(b[:])
}

// cryptSHA512 is crypt(3) with method 6: "Unix crypt using SHA-256 and SHA-512",
// Drepper, version 0.6. The steps have the numbers of that text.
func cryptSHA512(password, salt string, rounds int) (string, error) {
	if len(password) > maxPassword {
		return "", errors.New("the password is too long")
	}
	salt = salt[:min(len(salt), 16)]
	key := []byte(password)
	repeat := func(digest [64]byte, n int) []byte {
		out := make([]byte, 0, n+64)
		for len(out) < n {
			out = append(out, digest[:]...)
		}
		return out[:n]
	}
	b := sha512.Sum512([]byte(password + salt + password)) // steps 4 to 8
	a := []byte(password + salt)                           // 1 to 3
	a = append(a, repeat(b, len(key))...)                  // 9, 10
	for n := len(key); n > 0; n >>= 1 {                    // 11
		if n&1 != 0 {
			a = append(a, b[:]...)
		} else {
			a = append(a, key...)
		}
	}
	sum := sha512.Sum512(a) // 12
	var dp []byte           // 13 to 15
	for range key {
		dp = append(dp, key...)
	}
	p := repeat(sha512.Sum512(dp), len(key)) // 16
	var ds []byte                            // 17 to 19
	for range 16 + int(sum[0]) {
		ds = append(ds, salt...)
	}
	s := repeat(sha512.Sum512(ds), len(salt)) // 20
	for i := range rounds {                   // 21
		var c []byte
		if i&1 != 0 {
			c = append(c, p...)
		} else {
			c = append(c, sum[:]...)
		}
		if i%3 != 0 {
			c = append(c, s...)
		}
		if i%7 != 0 {
			c = append(c, p...)
		}
		if i&1 != 0 {
			c = append(c, sum[:]...)
		} else {
			c = append(c, p...)
		}
		sum = sha512.Sum512(c)
	}
	out := []byte("$6$" + salt + "$") // 22
	emit := func(x, y, z byte, n int) {
		for w := uint(x)<<16 | uint(y)<<8 | uint(z); n > 0; n-- {
			out = append(out, cryptAlphabet[w&63])
			w >>= 6
		}
	}
	// The bytes come in threes, whose places turn.
	for i := range 21 {
		t := [3]byte{sum[i], sum[i+21], sum[i+42]}
		emit(t[i%3], t[(i+1)%3], t[(i+2)%3], 4)
	}
	emit(0, 0, sum[63], 2)
	return string(out), nil
}
