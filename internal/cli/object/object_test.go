package object

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
)

func TestSecret(t *testing.T) {
	s := &Set{}
	file := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(file, []byte("from a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, def := range []string{"secret,id=s1,data=aGVsbG8=,format=base64", "secret,id=s3,file=" + file, `{"qom-type":"secret","id":"s4","data":"in JSON"}`} {
		if err := s.Define(def, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	for id, want := range map[string]string{"s1": "hello", "s3": "from a file", "s4": "in JSON"} {
		if got, err := driver.FindObject[driver.Secret](s, id); err != nil || string(got) != want {
			t.Errorf("secret %s: %q, %v", id, got, err)
		}
	}
	for _, def := range []string{"secret,id=s1,data=x", "secret,id=s2,data=!,format=base64", "secret,id=s2,data=x,format=hex",
		"secret,id=s2,data=x,keyid=s1", "secret,id=s2,data=x,file=y", "secret,id=s2", "secret,data=x", "bogus,id=s2"} {
		if err := s.Define(def, io.Discard); err == nil {
			t.Errorf("%s was taken", def)
		}
	}
	if _, err := driver.FindObject[driver.Secret](s, "s2"); err == nil {
		t.Error("a secret that was refused is there")
	}
}

// seal encrypts as QEMU expects it.
func seal(t *testing.T, key, iv, plain []byte) []byte {
	t.Helper()
	b, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	pad := aes.BlockSize - len(plain)%aes.BlockSize
	out := append(bytes.Clone(plain), bytes.Repeat([]byte{byte(pad)}, pad)...)
	cipher.NewCBCEncrypter(b, iv).CryptBlocks(out, out)
	return out
}

func TestEncryptedSecret(t *testing.T) {
	key, iv := bytes.Repeat([]byte{7}, 32), bytes.Repeat([]byte{9}, 16)
	sealed := seal(t, key, iv, []byte("sixteen bytes !!"))
	file := filepath.Join(t.TempDir(), "sealed")
	if err := os.WriteFile(file, sealed, 0o600); err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	s := &Set{}
	for _, def := range []string{
		"secret,id=master,format=base64,data=" + b64(key),
		"secret,id=a,keyid=master,iv=" + b64(iv) + ",format=base64,data=" + b64(sealed),
		"secret,id=b,keyid=master,iv=" + b64(iv) + ",file=" + file,
	} {
		if err := s.Define(def, io.Discard); err != nil {
			t.Fatalf("%s: %v", def, err)
		}
	}
	for _, id := range []string{"a", "b"} {
		if got, err := driver.FindObject[driver.Secret](s, id); err != nil || string(got) != "sixteen bytes !!" {
			t.Errorf("%s: %q, %v", id, got, err)
		}
	}
}

func TestTLSCreds(t *testing.T) {
	s := &Set{}
	// The files are read when credentials are defined: there must be an authority.
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Define("tls-creds-x509,id=t,dir="+dir+",verify-peer=off,passwordid=p", io.Discard); err != nil {
		t.Fatal(err)
	}
	for _, def := range []string{"tls-creds-x509,id=u", "tls-creds-x509,id=u,dir=/nowhere", "tls-creds-x509,id=u,endpoint=server,dir=" + dir,
		"tls-creds-psk,id=u", "tls-creds-psk,id=u,dir=" + dir, "tls-creds-x509,id=u,sanity-check=perhaps,dir=" + dir} {
		if err := s.Define(def, io.Discard); err == nil {
			t.Errorf("%s is taken", def)
		}
	}
	c, err := driver.FindObject[*driver.TLSCreds](s, "t")
	if err != nil || c.Type != "x509" || c.Server || c.Dir != dir || c.VerifyPeer || c.PasswordID != "p" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := driver.FindObject[driver.Secret](s, "t"); err == nil || !strings.Contains(err.Error(), "is not a secret") {
		t.Errorf("credentials as a secret: %v", err)
	}
	if _, err := driver.FindObject[*driver.TLSCreds](s, "other"); err == nil {
		t.Error("credentials that nobody defined")
	}
}

func TestMatchGlob(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"**", "abc", true}, {"a*c", "abbc", true}, {"a*c", "abcd", false}, {"a?c", "abc", true},
		{"a?c", "ac", false}, {"?", "Ä", true}, {"??", "Ä", false}, {"*Ä", "xÖÄ", true}, {"[a]", "a", false}, {"[a]", "[a]", true}, {"*ab*ab", "aabxab", true},
		{"*?b", "b", false}, {`\*`, "*", false}, {"*a*a*a*a*b", strings.Repeat("a", 2000), false},
	} {
		if matchGlob(c.pattern, c.name) != c.want {
			t.Errorf("%q on %.20q: not %v", c.pattern, c.name, c.want)
		}
	}
}

// TestAuthzFile has a list of rules change under the program.
func TestAuthzFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rules")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &Set{}
	for _, bad := range []string{"", "{", "[]", `{"policy":"maybe"}`, `{"x":1}`, `{"rules":[{"match":"x"}]}`} {
		write(bad)
		if err := s.Define("authz-list-file,id=bad,filename="+file, io.Discard); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	write(`{"policy":"deny","rules":[{"match":"a","policy":"allow"}]}`)
	for _, def := range []string{"authz-list-file,id=live,filename=" + file, "authz-list-file,id=fixed,refresh=off,filename=" + file} {
		if err := s.Define(def, io.Discard); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(id, name string) bool {
		t.Helper()
		a, err := driver.FindObject[*Authz](s, id)
		if err != nil {
			t.Fatal(err)
		}
		ok, _ := a.Allow(name)
		return ok
	}
	if !ask("live", "a") || ask("live", "b") || !ask("fixed", "a") {
		t.Error("not what the file says")
	}
	write(`{"policy":"deny","rules":[{"match":"b","policy":"allow"}]}`)
	if ask("live", "a") || !ask("live", "b") || !ask("fixed", "a") || ask("fixed", "b") {
		t.Error("not what the changed file says")
	}
	write(`{"policy":`)
	if ask("live", "b") || !ask("fixed", "a") {
		t.Error("not denied by a file that cannot be read")
	}
	write(`{"policy":"allow"}`)
	if !ask("live", "x") {
		t.Error("not what the file says again")
	}
}

func TestThrottleGroup(t *testing.T) {
	s := &Set{}
	for _, def := range []string{"throttle-group,id=a,x-iops-total=5,x-iops-total-max=10,x-iops-total-max-length=3,x-iops-size=4096",
		`{"qom-type":"throttle-group","id":"b","limits":{"bps-read":7}}`, "throttle-group,id=c,x-bps-write=1,limits.bps-write=2"} {
		if err := s.Define(def, io.Discard); err != nil {
			t.Fatalf("%s: %v", def, err)
		}
	}
	want := map[string]driver.ThrottleGroup{
		"a": {ID: "a", IOPS: driver.ThrottleLimit{Average: 5, Max: 10, Burst: 3}, IOPSSize: 4096},
		"b": {ID: "b", BPSRead: driver.ThrottleLimit{Average: 7}}, "c": {ID: "c", BPSWrite: driver.ThrottleLimit{Average: 2}},
	}
	for id, w := range want {
		if g, err := driver.FindObject[*driver.ThrottleGroup](s, id); err != nil || *g != w {
			t.Errorf("%s: %+v, %v", id, g, err)
		}
	}
	for params, msg := range map[string]string{
		"x-bogus=5": "Parameter 'x-bogus' is unexpected", "limits.bogus=5": "Parameter 'limits.bogus' is unexpected", "limits=5": "Invalid parameter type for 'limits', expected: object",
		"x-iops-total=-5": "Property values cannot be negative", "limits.iops-total=-5": "bps/iops/max values must be within [0, 1000000000000000]",
		"x-iops-total=5,x-iops-read=3": "bps/iops/max total values and read/write values cannot be used at the same time",
		"x-iops-total-max=1":           "bps_max/iops_max require corresponding bps/iops values", "x-bps-total=1k": "Parameter 'x-bps-total' expects integer",
		"x-iops-total=5,x-iops-total-max-length=0": "the burst length cannot be 0", "x-iops-total=5,x-iops-total-max=3": "bps_max/iops_max cannot be lower than bps/iops",
		"x-iops-size=4096": "iops size requires an iops value to be set", "x-iops-total=5,x-iops-total-max-length=3": "burst length set without burst rate",
		"x-iops-total=5,x-iops-total-max=1000000000000,x-iops-total-max-length=4000000": "burst length too high for this burst rate",
	} {
		if err := s.Define("throttle-group,id=z,"+params, io.Discard); err == nil || err.Error() != msg {
			t.Errorf("%s: %v, want %s", params, err, msg)
		}
	}
}

func TestKeyring(t *testing.T) {
	s := &Set{}
	for params, msg := range map[string]string{
		"": "Parameter 'serial' is missing", ",serial=x": "Parameter 'serial' expects integer", ",serial=5000000000": "Parameter 'serial' expects int32_t",
		",serial=5": "Unable to read serial key 00000005: ",
	} {
		if err := s.Define("secret_keyring,id=k"+params, io.Discard); err == nil || !strings.HasPrefix(err.Error(), msg) {
			t.Errorf("%s: %v, want %s", params, err, msg)
		}
	}
	if err := s.Define("iothread,id=i", io.Discard); err == nil || err.Error() != "invalid object type: iothread" {
		t.Errorf("iothread: %v", err)
	}
}
