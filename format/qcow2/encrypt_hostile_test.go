package qcow2_test

import (
	"context"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

// luksFile returns an image with a LUKS header, where the pointer to it is, and
// where it is.
func luksFile(t testing.TB) (b []byte, pointer, header int) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	createEncrypted(t, path, "luks", 1<<20, opts.Dict{"encrypt.cipher-alg": "aes-128", "cluster_size": "4k"})
	img := mustOpenEncrypted(t, path, true, nil)
	p := make([]byte, 10000)
	marked(p, 0)
	if _, err := img.WriteAt(context.Background(), p, 5000); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	pointer = strings.Index(string(b[:4096]), "\x05\x37\xbe\x77\x00\x00\x00\x10") + 8
	if pointer < 8 {
		t.Fatal("no pointer to the header")
	}
	return b, pointer, int(binary.BigEndian.Uint64(b[pointer:]))
}

// openHostile opens an image with a key and without, and reads it if it opens.
func openHostile(t testing.TB, b []byte) error {
	t.Helper()
	path := filepath.Join(t.TempDir(), "a.qcow2")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	o := openOpts(false)
	o.Objects, o.Use.NoIO = keys, true
	source := block.Source{Filename: path, Format: "qcow2", Options: opts.Dict{"encrypt.key-secret": "s"}}
	if img, err := block.Open(ctx, registry(), source, o); err == nil {
		_, _ = img.Info(ctx)
		closeImage(t, img)
	}
	o.Use.NoIO = false
	begin := time.Now()
	img, err := block.Open(ctx, registry(), source, o)
	if d := time.Since(begin); d > 20*time.Second {
		t.Errorf("opening took %v: it cannot be cancelled", d)
	}
	if err != nil {
		return err
	}
	defer closeImage(t, img)
	_, err = img.ReadAt(ctx, make([]byte, 20000), 0)
	return err
}

func TestHostileCryptoPointer(t *testing.T) {
	whole, pointer, header := luksFile(t)
	size := uint64(len(whole))
	for _, v := range []struct {
		name        string
		off, length uint64
		want        string
	}{
		{"unaligned", uint64(header) + 512, 4096, "is not a multiple of cluster size '4096'"},
		{"the image's own header", 0, 4096, "volume is not in LUKS format"},
		{"at the end", (size + 4095) &^ 4095, 4096, "beyond the end of the file"},
		{"far away", 1<<63 + 4096, 4096, "beyond the end of the file"},
		{"largest offset", 1<<64 - 4096, 4096, "beyond the end of the file"},
		{"empty", uint64(header), 0, "volume is not in LUKS format"},
		{"too short for the header", uint64(header), 100, ""},
		{"too short for the key", uint64(header), 8192, ""},
		{"longer than the file", uint64(header), size, "beyond the end of the file"},
		{"longest", uint64(header), 1<<64 - 1, "beyond the end of the file"},
		{"sum overflows", uint64(header), -uint64(header), "beyond the end of the file"},
	} {
		b := append([]byte{}, whole...)
		binary.BigEndian.PutUint64(b[pointer:], v.off)
		binary.BigEndian.PutUint64(b[pointer+8:], v.length)
		if err := openHostile(t, b); err == nil || !strings.Contains(err.Error(), v.want) {
			t.Errorf("%s: %v, want %q", v.name, err, v.want)
		}
	}
	if err := openHostile(t, whole); err != nil {
		t.Errorf("unchanged: %v", err)
	}
	b := append([]byte{}, whole...)
	binary.BigEndian.PutUint32(b[pointer-8:], 0x12345678) // an extension that nobody knows
	if err := openHostile(t, b); err == nil || !strings.Contains(err.Error(), "missing CRYPTO header for crypt method 2") {
		t.Errorf("no pointer: %v", err)
	}
	b = append([]byte{}, whole...)
	binary.BigEndian.PutUint32(b[32:], 1)
	if err := openHostile(t, b); err == nil || !strings.Contains(err.Error(), "CRYPTO header extension only expected with LUKS encryption method") {
		t.Errorf("pointer in an AES image: %v", err)
	}
}

// Bytes of the LUKS header are changed: nothing that follows is worse than an error.
func TestHostileLUKSHeader(t *testing.T) {
	whole, _, header := luksFile(t)
	const slots, slotLen = 208, 48
	refused := map[string]func(h []byte){
		"no stripes":                 func(h []byte) { binary.BigEndian.PutUint32(h[slots+44:], 0) },
		"endless derivation":         func(h []byte) { binary.BigEndian.PutUint32(h[slots+4:], 1<<32-1) },
		"key material far away":      func(h []byte) { binary.BigEndian.PutUint32(h[slots+40:], 1<<32-1) },
		"key longer than any cipher": func(h []byte) { binary.BigEndian.PutUint32(h[108:], 1<<31) },
		"version 2":                  func(h []byte) { binary.BigEndian.PutUint16(h[6:], 2) },
		"unknown cipher":             func(h []byte) { copy(h[8:], "rot13\x00") },
		"no slot":                    func(h []byte) { binary.BigEndian.PutUint32(h[slots:], 0xdead) },
	}
	for name, change := range refused {
		b := append([]byte{}, whole...)
		change(b[header:])
		if err := openHostile(t, b); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	rounds := 150
	if testing.Short() || testkit.Race {
		rounds = 20
	}
	r := testkit.Rand(5)
	for range rounds {
		b := append([]byte{}, whole...)
		for range 1 + r.IntN(3) {
			b[header+r.IntN(slots+slotLen)] = byte(r.IntN(256))
		}
		_ = openHostile(t, b)
	}
}
