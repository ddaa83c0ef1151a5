package tlscreds

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"testing"
)

func TestDN(t *testing.T) {
	name := pkix.RDNSequence{
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 6}, Value: "GB"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 7}, Value: "Here, there"}},
		{{Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 1}, Value: "me"}, {Type: asn1.ObjectIdentifier{2, 5, 4, 10}, Value: " a+b "}},
		{{Type: asn1.ObjectIdentifier{1, 2, 3}, Value: "x"}},
		{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: "#1"}},
	}
	der, err := asn1.Marshal(name)
	if err != nil {
		t.Fatal(err)
	}
	const want = `C=GB,L=Here\, there,O=\ a\+b\ +UID=me,1.2.3=#130178,CN=\#1`
	if got := DN(&x509.Certificate{RawSubject: der}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := DN(&x509.Certificate{RawSubject: der[1:]}); got != "" {
		t.Errorf("%q", got)
	}
}

// FuzzDecryptPKCS8 gives any bytes as an encrypted key. The seed is a structure with
// few iterations whose content is not valid.
func FuzzDecryptPKCS8(f *testing.F) {
	oid := func(id ...int) pkix.AlgorithmIdentifier { return pkix.AlgorithmIdentifier{Algorithm: id} }
	raw := func(v any) asn1.RawValue {
		der, err := asn1.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		return asn1.RawValue{FullBytes: der}
	}
	kdf, cipher, all := oid(1, 2, 840, 113549, 1, 5, 12), oid(2, 16, 840, 1, 101, 3, 4, 1, 2), oid(1, 2, 840, 113549, 1, 5, 13)
	kdf.Parameters = raw(struct {
		Salt       []byte
		Iterations int
	}{[]byte("salt"), 3})
	cipher.Parameters = raw(make([]byte, 16))
	all.Parameters = raw(pbes2Params{kdf, cipher})
	seed := raw(encryptedKey{all, make([]byte, 32)}).FullBytes
	if _, err := decryptPKCS8(seed, []byte("secret")); err == nil || err != errDecrypt {
		f.Fatalf("the seed: %v", err)
	}
	f.Add(seed)
	pkcs12 := oid(1, 2, 840, 113549, 1, 12, 1, 3)
	pkcs12.Parameters = raw(pkcs12Params{[]byte("salt"), 3})
	f.Add(raw(encryptedKey{pkcs12, make([]byte, 32)}).FullBytes)
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) > 300 {
			return
		}
		decryptPKCS8(der, []byte("secret"))
	})
}

// TestPKCS12Key derives the keys of test vectors that many implementations share.
func TestPKCS12Key(t *testing.T) {
	for _, c := range []struct {
		password, salt string
		iterations     int
		id             byte
		want           string
	}{
		{"smeg", "0a58cf64530d823f", 1, 1, "8aaae6297b6cb04642ab5b077851284eb7128f1a2a7fbca3"},
		{"smeg", "0a58cf64530d823f", 1, 2, "79993dfe048d3b76"},
		{"queeg", "05dec959acff72f7", 1000, 1, "ed2034e36328830ff09df1e1a07dd357185dac0d4f9eb3d4"},
		{"queeg", "05dec959acff72f7", 1000, 2, "11dedad7758d4860"},
	} {
		salt, err := hex.DecodeString(c.salt)
		if err != nil {
			t.Fatal(err)
		}
		if got := hex.EncodeToString(pkcs12Key([]byte(c.password), salt, c.iterations, c.id, len(c.want)/2)); got != c.want {
			t.Errorf("%s, %d: %s, want %s", c.password, c.id, got, c.want)
		}
	}
}

// TestOldKey decrypts a key with a PEM header that names the cipher, and hostile ones.
func TestOldKey(t *testing.T) {
	//lint:ignore SA1019 it makes what is to be read
	block, err := x509.EncryptPEMBlock(rand.Reader, "RSA PRIVATE KEY", []byte{0x30, 3, 2, 1, 0}, []byte("secret"), x509.PEMCipherAES128)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := decryptOld(block, []byte("secret")); err != nil || !bytes.Equal(got, []byte{0x30, 3, 2, 1, 0}) {
		t.Errorf("%x, %v", got, err)
	}
	if _, err := decryptOld(block, []byte("other")); err != errDecrypt {
		t.Errorf("with another password: %v", err)
	}
	for _, info := range []string{"", "AES-128-CBC", "AES-128-CBC,", "AES-128-CBC,zz", "AES-128-CBC,00", "AES-128-CBC,0011223344556677", "DES-CBC,00112233445566778899", "X,00112233445566778899aabbccddeeff"} {
		bad := &pem.Block{Type: block.Type, Headers: map[string]string{"DEK-Info": info}, Bytes: block.Bytes}
		if got, err := decryptOld(bad, []byte("secret")); err == nil {
			t.Errorf("%q: %x", info, got)
		}
	}
	for _, n := range []int{0, 1, 15, 17} {
		if _, err := decryptOld(&pem.Block{Headers: block.Headers, Bytes: make([]byte, n)}, nil); err == nil {
			t.Errorf("%d bytes are taken", n)
		}
	}
}
