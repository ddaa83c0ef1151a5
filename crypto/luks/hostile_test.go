package luks

import (
	"context"
	"encoding/binary"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"
)

func TestHostile1(t *testing.T) {
	whole, _, _ := create(t, CreateOptions{})
	be := binary.BigEndian
	for _, c := range []struct {
		name string
		edit func(b []byte)
		want string
		kind error
	}{
		{"magic", func(b []byte) { b[0] = 'l' }, "volume is not in LUKS format", ErrFormat},
		{"version", func(b []byte) { b[7] = 3 }, "LUKS version 3 is not supported", ErrUnsupported},
		{"endless cipher name", func(b []byte) { copy(b[8:40], strings.Repeat("x", 32)) }, "LUKS header cipher name is not NUL terminated", ErrCorrupt},
		{"endless cipher mode", func(b []byte) { copy(b[40:72], strings.Repeat("x", 32)) }, "LUKS header cipher mode is not NUL terminated", ErrCorrupt},
		{"endless hash", func(b []byte) { copy(b[72:104], strings.Repeat("x", 32)) }, "LUKS header hash spec is not NUL terminated", ErrCorrupt},
		{"payload in the header", func(b []byte) { be.PutUint32(b[104:], 7) }, "LUKS payload is overlapping with the header", ErrCorrupt},
		{"payload in a slot", func(b []byte) { be.PutUint32(b[104:], 100) }, "keyslot 0 is overlapping with the encrypted payload", ErrCorrupt},
		{"huge key", func(b []byte) { be.PutUint32(b[108:], 1<<32-1) }, "keyslot 0 is overlapping with the encrypted payload", ErrCorrupt},
		{"no key", func(b []byte) { be.PutUint32(b[108:], 0) }, "algorithm 'aes' with key size 0 bytes not supported", ErrUnsupported},
		{"no iterations", func(b []byte) { be.PutUint32(b[164:], 0) }, "LUKS key iteration count is zero", ErrCorrupt},
		{"stripes", func(b []byte) { be.PutUint32(b[252:], 1<<31) }, "keyslot 0 is corrupted (stripes -2147483648 != 4000)", ErrCorrupt},
		{"slot in the header", func(b []byte) { be.PutUint32(b[248:], 0) }, "keyslot 0 is overlapping with the LUKS header", ErrCorrupt},
		{"slot far away", func(b []byte) { be.PutUint32(b[248:], 1<<32-1) }, "keyslot 0 is overlapping with the encrypted payload", ErrCorrupt},
		{"slots overlap", func(b []byte) { be.PutUint32(b[296:], 9) }, "keyslots 0 and 1 are overlapping in the header", ErrCorrupt},
		{"state", func(b []byte) { b[208] = 1 }, "keyslot 0 state (active/disable) is corrupted", ErrCorrupt},
		{"slot without iterations", func(b []byte) { be.PutUint32(b[212:], 0) }, "keyslot 0 iteration count is zero", ErrCorrupt},
		{"mode", func(b []byte) { copy(b[40:], "xts\x00") }, "unexpected cipher mode string format 'xts'", ErrCorrupt},
		{"hash", func(b []byte) { copy(b[72:], "whirl\x00") }, "hash algorithm 'whirl' not supported", ErrUnsupported},
	} {
		m := whole.clone()
		c.edit(m.b)
		_, err := Open(t.Context(), m, int64(len(m.b)))
		if err == nil || err.Error() != c.want || !errors.Is(err, c.kind) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
}

func TestCutShort(t *testing.T) {
	one, _, _ := create(t, CreateOptions{})
	for _, whole := range []*memArea{one, build2(t)} {
		for _, n := range []int{0, 1, 7, 8, 100, 511, 591, 592, 4096, 5000, 40000, 100000} {
			m := &memArea{b: whole.b[:n:n]}
			h, err := Open(t.Context(), m, int64(n))
			if err != nil {
				continue
			}
			if _, err := h.Unlock(t.Context(), secret); err == nil {
				t.Errorf("%d bytes: opens", n)
			}
		}
	}
}

// TestOneSlotCutOff checks that a slot beyond the end of the area does not keep
// another from opening.
func TestOneSlotCutOff(t *testing.T) {
	whole, h, key := create(t, CreateOptions{})
	for range 3 {
		if _, err := h.AddKey(t.Context(), key, []byte("other"), AddOptions{IterTime: fast}); err != nil {
			t.Fatal(err)
		}
	}
	m := &memArea{b: whole.b[:slotOffset(64, 1)]}
	for range 10 {
		if k, err := openArea(t, m).Unlock(t.Context(), secret); err != nil || k.Slot() != 0 {
			t.Fatal(err)
		}
	}
	if _, err := openArea(t, m).Unlock(t.Context(), []byte("other")); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestHostile2(t *testing.T) {
	for _, c := range []struct {
		name, old, new string
		kind           error
	}{
		{"no text", `{"keyslots"`, ``, ErrCorrupt},
		{"list", `{"keyslots"`, `[{"keyslots"`, ErrCorrupt},
		{"no slots", `"keyslots":{"0"`, `"x":{"0"`, ErrCorrupt},
		{"no config", `"config"`, `"x"`, ErrCorrupt},
		{"deep", `"tokens":{}`, `"tokens":` + strings.Repeat("[", 11000), ErrCorrupt},
		{"slot name", `{"keyslots":{"0"`, `{"keyslots":{"00"`, ErrUnsupported},
		{"slot number", `{"keyslots":{"0"`, `{"keyslots":{"99999999999999"`, ErrUnsupported},
		{"slot type", `"type":"luks2"`, `"type":"luks9"`, ErrUnsupported},
		{"reencryption", `"type":"luks2"`, `"type":"reencrypt"`, ErrUnsupported},
		{"requirement", `"config":{`, `"config":{"requirements":{"mandatory":["time-travel"]},`, ErrUnsupported},
		{"reencryption required", `"config":{`, `"config":{"requirements":{"mandatory":["online-reencrypt-v2"]},`, ErrUnsupported},
		{"backup segment", `"sector_size":512`, `"sector_size":512,"flags":["backup-final"]`, ErrUnsupported},
		{"two segments", `"segments":{`, `"segments":{"1":{"type":"linear","offset":"0","size":"512"},`, ErrUnsupported},
		{"linear", `"type":"crypt"`, `"type":"linear"`, ErrUnsupported},
		{"integrity", `"sector_size":512`, `"sector_size":512,"integrity":{"type":"hmac(sha256)"}`, ErrUnsupported},
		{"key size", `"key_size":64,"af"`, `"key_size":9999999999,"af"`, ErrCorrupt},
		{"key size is text", `"key_size":64,"af"`, `"key_size":"64","af"`, ErrCorrupt},
		{"negative key size", `"key_size":64,"af"`, `"key_size":-64,"af"`, ErrCorrupt},
		{"stripes", `"stripes":4000`, `"stripes":4000000000`, ErrCorrupt},
		{"splitting", `"type":"luks1"`, `"type":"luks7"`, ErrUnsupported},
		{"iterations", `"iterations":3,"salt"`, `"iterations":4294967296,"salt"`, ErrCorrupt},
		{"no iterations", `"iterations":3,"salt"`, `"iterations":0,"salt"`, ErrCorrupt},
		{"salt", `"salt":"`, `"salt":"*`, ErrCorrupt},
		{"area in the header", `"offset":"32768"`, `"offset":"32767"`, ErrCorrupt},
		{"area in the payload", `"offset":"32768"`, `"offset":"1000000"`, ErrCorrupt},
		{"area beyond everything", `"offset":"32768"`, `"offset":"9223372036854775807"`, ErrCorrupt},
		{"area overflows", `"offset":"32768"`, `"offset":"18446744073709551616"`, ErrCorrupt},
		{"negative offset", `"offset":"32768"`, `"offset":"-1"`, ErrCorrupt},
		{"offset is a number", `"offset":"32768"`, `"offset":32768`, ErrCorrupt},
		{"small area", `"size":"258048"`, `"size":"4096"`, ErrCorrupt},
		{"payload in the header", `"offset":"1048576"`, `"offset":"4096"`, ErrCorrupt},
		{"ragged payload", `"offset":"1048576"`, `"offset":"1048577"`, ErrCorrupt},
		{"payload size", `"size":"dynamic"`, `"size":"9223372036854775807"`, ErrCorrupt},
		{"sector size", `"sector_size":512`, `"sector_size":8192`, ErrCorrupt},
		{"ragged tweak", `"iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":512`, `"iv_tweak":"1","encryption":"aes-xts-plain64","sector_size":4096`, ErrCorrupt},
		{"digest type", `"digests":{"0":{"type":"pbkdf2"`, `"digests":{"0":{"type":"none"`, ErrUnsupported},
		{"no digest", `"segments":["0"]`, `"segments":["7"]`, ErrCorrupt},
		{"two digests", `"digests":{`, `"digests":{"7":{"segments":["0"]},`, ErrCorrupt},
		{"weak digest", `"digest":"`, `"digest":"AAAA","x":"`, ErrCorrupt},
		{"other cipher", `"encryption":"aes-xts-plain64","sector`, `"encryption":"cipher_null-ecb","sector`, nil},
		{"integrity cipher", `"encryption":"aes-xts-plain64","sector`, `"encryption":"capi:gcm(aes)-random","sector`, ErrUnsupported},
		{"argon2 memory", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2id","time":4,"cpus":1,"memory":4194305`, ErrCorrupt},
		{"argon2 cpus", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2id","time":4,"cpus":256,"memory":64`, ErrCorrupt},
		{"argon2 work", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2i","time":4000000000,"cpus":1,"memory":4194304`, ErrLimit},
		{"derivation", `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"scrypt"`, ErrUnsupported},
	} {
		m := build2(t, c.old, c.new)
		h, err := Open(t.Context(), m, int64(len(m.b)))
		if c.kind == nil {
			// Known only when it is wanted.
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			} else if _, err := h.Cipher(&Key{bytes: make([]byte, 64)}); !errors.Is(err, ErrUnsupported) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestMemoryIsAsked checks that argon2 does not begin without leave.
func TestMemoryIsAsked(t *testing.T) {
	m := build2(t, `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2id","time":1,"cpus":1,"memory":4194304`)
	h := openArea(t, m)
	var asked int64
	h.Reserve = func(n int64) (func(), error) {
		asked = n
		return nil, errors.New("too much")
	}
	if _, err := h.Unlock(t.Context(), secret); !errors.Is(err, ErrLimit) {
		t.Error(err)
	}
	if asked != 4<<30 {
		t.Errorf("asked for %d bytes", asked)
	}
}

// TestPromisesCostNothing checks that what a header claims is not reserved.
func TestPromisesCostNothing(t *testing.T) {
	m := build2(t, `"size":"258048"`, `"size":"1015808"`)
	m.b = m.b[:50000]
	h := openArea(t, m)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := h.Unlock(t.Context(), secret); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
		t.Errorf("%d bytes were allocated", n)
	}
}

func fuzzOpen(t *testing.T, b []byte) {
	// Many iterations are an honest wish, so that they are given up here.
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	m := &memArea{b: b}
	h, err := Open(ctx, m, int64(len(b)))
	if err != nil {
		return
	}
	h.Reserve = func(n int64) (func(), error) {
		if n > 1<<20 {
			return nil, errors.New("too much")
		}
		return func() {}, nil
	}
	info := h.Info()
	if info.UUID != h.UUID || h.PayloadOffset < 0 || h.PayloadSize < -1 || h.SectorSize < 512 || h.KeyBytes <= 0 {
		t.Errorf("%+v", h)
	}
	if k, err := h.Unlock(ctx, secret); err == nil {
		_, _ = h.Cipher(k)
	}
}

// FuzzOpen1 opens headers of version 1, with key material behind them.
func FuzzOpen1(f *testing.F) {
	for _, o := range []CreateOptions{{}, {CipherAlg: "twofish-128", CipherMode: "cbc", IVGenAlg: "essiv"}} {
		m, _, _ := create(f, o)
		f.Add(m.b[:headerSize1])
		f.Add(m.b[:8192])
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		b := make([]byte, 300000)
		copy(b, head)
		fuzzOpen(t, b)
		fuzzOpen(t, head)
	})
}

// FuzzOpen2 opens headers of version 2 with any text.
func FuzzOpen2(f *testing.F) {
	whole := build2(f)
	text, _ := text(whole.b[binarySize2:testHeader2])
	f.Add(text)
	f.Add(strings.Replace(text, `"kdf":{"type":"pbkdf2"`, `"kdf":{"type":"argon2id","time":1,"cpus":1,"memory":64`, 1))
	f.Add(`{"keyslots":{},"segments":{},"digests":{},"config":{}}`)
	f.Fuzz(func(t *testing.T, text string) {
		m := whole.clone()
		if len(text) > testHeader2-binarySize2 {
			return
		}
		copy(m.b, binary2(text, 0, 1))
		copy(m.b[testHeader2:], binary2(text, testHeader2, 1))
		fuzzOpen(t, m.b)
	})
}

// FuzzBinary2 opens any bytes as the binary header of version 2.
func FuzzBinary2(f *testing.F) {
	m := build2(f)
	f.Add(m.b[:testHeader2])
	f.Add(m.b[:2*testHeader2])
	f.Fuzz(fuzzOpen)
}
