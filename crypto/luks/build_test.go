package luks

import (
	"bytes"
	stdpbkdf2 "crypto/pbkdf2"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/crypto/sector"
)

const (
	testHeader2  = 16 << 10 // of one copy
	testArea2    = 32 << 10
	testPayload2 = 1 << 20
)

// binary2 makes one copy of a header of version 2.
func binary2(text string, off int64, seq uint64) []byte {
	b := make([]byte, testHeader2)
	copy(b, magic)
	if off > 0 {
		copy(b, secondaryMagic)
	}
	b[7] = 2
	be := binary.BigEndian
	be.PutUint64(b[headerLen2:], testHeader2)
	be.PutUint64(b[seqID2:], seq)
	copy(b[label2:], "a label")
	copy(b[checksum2:], "sha256")
	copy(b[uuid2:], "12345678-1234-1234-1234-123456789abc")
	be.PutUint64(b[offset2:], uint64(off))
	copy(b[binarySize2:], text)
	sum := sha256.Sum256(b)
	copy(b[sum2:], sum[:])
	return b
}

// build2 makes a volume of version 2 whose one key slot opens with secret, with
// changes of its text.
func build2(t testing.TB, changes ...string) *memArea {
	t.Helper()
	key := bytes.Repeat([]byte("0123456789abcdef"), 4)
	salt := []byte("0123456789abcdef0123456789abcdef")
	derive := func(p []byte, n int) []byte {
		k, err := stdpbkdf2.Key(sha256.New, string(p), salt, 3, n)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	material := afSplit(sha256.New, key, stripes1)
	c, err := sector.New(sector.Spec{Cipher: "aes", Mode: "xts", IVGen: "plain64"}, derive(secret, 64), sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	c.Encrypt(material, material, 0)
	b64 := base64.StdEncoding.EncodeToString
	text := fmt.Sprintf(`{"keyslots":{"0":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},
"area":{"type":"raw","offset":"%d","size":"258048","encryption":"aes-xts-plain64","key_size":64},
"kdf":{"type":"pbkdf2","hash":"sha256","iterations":3,"salt":"%s"}}},
"tokens":{},"segments":{"0":{"type":"crypt","offset":"%d","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":512}},
"digests":{"0":{"type":"pbkdf2","keyslots":["0"],"segments":["0"],"hash":"sha256","iterations":3,"salt":"%s","digest":"%s"}},
"config":{"json_size":"12288","keyslots_size":"1015808"}}`, testArea2, b64(salt), testPayload2, b64(salt), b64(derive(key, 32)))
	for i := 0; i+1 < len(changes); i += 2 {
		if !strings.Contains(text, changes[i]) {
			t.Fatalf("the text does not have %q", changes[i])
		}
		text = strings.Replace(text, changes[i], changes[i+1], 1)
	}
	m := &memArea{b: make([]byte, testPayload2+4096)}
	copy(m.b, binary2(text, 0, 1))
	copy(m.b[testHeader2:], binary2(text, testHeader2, 1))
	copy(m.b[testArea2:], material)
	return m
}

func TestVersion2(t *testing.T) {
	h := openArea(t, build2(t))
	if h.Version != 2 || h.PayloadOffset != testPayload2 || h.PayloadSize != -1 || h.SectorSize != 512 || h.KeyBytes != 64 {
		t.Errorf("%+v", h)
	}
	k, err := h.Unlock(t.Context(), secret)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(k.bytes, []byte("0123456789")) {
		t.Error("wrong key")
	}
	info := h.Info()
	if info.Version != 2 || info.Label != "a label" || len(info.Slots) != 1 || *info.Slots[0].Iters != 3 || info.CipherAlg != "aes-256" {
		t.Errorf("%+v", info)
	}
	h = openArea(t, build2(t, `"size":"dynamic","iv_tweak":"0"`, `"size":"4096","iv_tweak":"8"`, `"sector_size":512`, `"sector_size":4096`))
	if h.PayloadSize != 4096 || h.IVOffset != 8 || h.SectorSize != 4096 {
		t.Errorf("%+v", h)
	}
}
