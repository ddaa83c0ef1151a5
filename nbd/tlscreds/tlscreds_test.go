package tlscreds

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
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
	f.Add([]byte{0x30, 0x03, 0x02, 0x01, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		if len(der) > 300 {
			return
		}
		decryptPKCS8(der, []byte("secret"))
	})
}
