//go:build unix

package differential

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// keyFiles returns encrypted forms of a key. The password is "secret".
func keyFiles(t *testing.T, certtool string, key *issued) map[string]string {
	t.Helper()
	dir := t.TempDir()
	plain, sealed := filepath.Join(dir, "plain"), filepath.Join(dir, "sealed")
	if err := os.WriteFile(plain, []byte(key.keyPEM(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	files := map[string]string{"plain": key.keyPEM(t)}
	seal := func(name string, args ...string) {
		testkit.Run(t, certtool, append(args, "--to-p8", "--load-privkey", plain, "--outfile", sealed)...)
		text, err := os.ReadFile(sealed)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(text)
	}
	for _, name := range []string{"3des", "3des-pkcs12", "aes-256", "rc2-40"} {
		seal(name, "--pkcs-cipher", name, "--password", "secret")
	}
	seal("empty password", "--pkcs-cipher", "aes-128", "--empty-password")
	der, err := x509.MarshalECPrivateKey(key.key)
	if err != nil {
		t.Fatal(err)
	}
	files["old plain"] = string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
	for name, alg := range map[string]x509.PEMCipher{"old DES": x509.PEMCipherDES, "old 3DES": x509.PEMCipher3DES, "old AES-128": x509.PEMCipherAES128, "old AES-256": x509.PEMCipherAES256} {
		//lint:ignore SA1019 it makes the files that are to be read
		block, err := x509.EncryptPEMBlock(rand.Reader, "EC PRIVATE KEY", der, []byte("secret"), alg)
		if err != nil {
			t.Fatal(err)
		}
		// GnuTLS reads the vector in capitals only, as OpenSSL writes it.
		cipher, iv, _ := strings.Cut(block.Headers["DEK-Info"], ",")
		block.Headers["DEK-Info"] = cipher + "," + strings.ToUpper(iv)
		files[name] = string(pem.EncodeToMemory(block))
	}
	files["old, cipher unknown"] = strings.Replace(files["old AES-128"], "AES-128-CBC", "CAST5-CBC", 1)
	files["old, no cipher"] = strings.Replace(files["old AES-128"], "DEK-Info", "Other-Info", 1)
	return files
}

// keyDiffers are encryptions that we do not have, or that QEMU reads otherwise.
var keyDiffers = map[string]string{
	"rc2-40":              "the cipher is weak and not supported",
	"old, cipher unknown": "we name the cipher",
	"old, no cipher":      "we say what is missing",
}

// TestTLSCredsKeys has both programs define credentials whose key is encrypted.
func TestTLSCredsKeys(t *testing.T) {
	t.Parallel()
	if testing.Short() || testkit.Race {
		t.Skip("deriving the keys takes long")
	}
	certtool := testkit.Tool(t, "certtool")
	tools := needCLI(t)
	dir := fixtures(t, tools)
	ca := certSpec{name: "authority", basic: "ca", usage: usageCA}.issue(t)
	own := certSpec{name: "host", issuer: ca}.issue(t)
	files := keyFiles(t, certtool, own)
	for i, name := range slices.Sorted(maps.Keys(files)) {
		if !testkit.Sample(i, 3) {
			continue
		}
		text := files[name]
		creds := credFiles{"ca-cert.pem": ca.pem(), "server-cert.pem": own.pem(), "server-key.pem": text}.write(t)
		// Deriving a key takes half a second, where certtool has made the file.
		passwords := []string{"", ",passwordid=good", ",passwordid=bad"}
		switch {
		case strings.Contains(name, "plain"):
			passwords = append(passwords, ",passwordid=none", ",passwordid=binary", ",passwordid=rules")
		case name == "empty password":
			passwords = []string{"", ",passwordid=none"}
		case name != "aes-256" && !strings.HasPrefix(name, "old"):
			passwords = []string{",passwordid=good"}
		}
		for _, password := range passwords {
			args := []string{"info", "--object", "secret,id=good,data=secret", "--object", "secret,id=bad,data=wrong", "--object", "secret,id=none,data=",
				"--object", "secret,id=binary,data=//8=,format=base64", "--object", "authz-list,id=rules",
				"--object", "tls-creds-x509,id=t,endpoint=server,dir=" + creds + password, "-f", "raw", "raw.img"}
			a, b := runNBD(t, dir, tools.img, args...), runNBD(t, dir, tools.ours, args...)
			if a == b {
				continue
			}
			if reason := keyDiffers[name]; reason != "" && b.code == 1 && b.stdout == "" && strings.Contains(b.stderr, "Cannot load certificate") {
				t.Logf("%s: %s: %s", name, reason, b.stderr)
				continue
			}
			t.Errorf("%s%s\noriginal: %+v\nours:     %+v", name, password, a, b)
		}
	}
}

// TestTLSCredsByCerttool has both programs define credentials that certtool has made,
// as the documentation of QEMU has it.
func TestTLSCredsByCerttool(t *testing.T) {
	certtool := testkit.Tool(t, "certtool")
	tools := needCLI(t)
	dir := fixtures(t, tools)
	made := t.TempDir()
	at := func(name string) string { return filepath.Join(made, name) }
	template := func(name, text string) string {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	testkit.Run(t, certtool, "--generate-privkey", "--key-type", "ecdsa", "--outfile", at("ca-key"))
	testkit.Run(t, certtool, "--generate-self-signed", "--load-privkey", at("ca-key"), "--outfile", at("ca"),
		"--template", template("ca.tmpl", "cn = Authority\nca\ncert_signing_key\n"))
	for _, kind := range []string{"ecdsa", "rsa"} {
		testkit.Run(t, certtool, "--generate-privkey", "--key-type", kind, "--outfile", at(kind))
	}
	read := func(name string) string {
		text, err := os.ReadFile(at(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for _, c := range []struct{ name, key, template, hash string }{
		{"server", "rsa", "cn = server.example.org\ndns_name = server.example.org\ntls_www_server\nencryption_key\nsigning_key\n", "sha256"},
		{"client", "rsa", "country = GB\norganization = Example\ncn = client.example.org\ntls_www_client\nencryption_key\nsigning_key\n", "sha256"},
		{"no enciphering", "ecdsa", "cn = host\ntls_www_server\ntls_www_client\nencryption_key\nsigning_key\n", "sha256"},
		{"nothing said", "ecdsa", "cn = host\n", "sha256"},
		{"expired", "ecdsa", "cn = host\nactivation_date = \"2020-01-01 00:00:00\"\nexpiration_date = \"2021-01-01 00:00:00\"\n", "sha256"},
		{"later", "ecdsa", "cn = host\nactivation_date = \"2090-01-01 00:00:00\"\nexpiration_date = \"2091-01-01 00:00:00\"\n", "sha256"},
		{"authority", "ecdsa", "cn = host\nca\n", "sha256"},
		{"weak", "rsa", "cn = host\n", "sha1"},
		{"weak too", "ecdsa", "cn = host\n", "sha1"},
	} {
		testkit.Run(t, certtool, "--generate-certificate", "--load-privkey", at(c.key), "--load-ca-certificate", at("ca"), "--load-ca-privkey", at("ca-key"),
			"--hash", c.hash, "--template", template("tmpl", c.template), "--outfile", at("cert"))
		cert, key := read("cert"), read(c.key)
		creds := credFiles{"ca-cert.pem": read("ca"), "server-cert.pem": cert, "server-key.pem": key, "client-cert.pem": cert, "client-key.pem": key}.write(t)
		for _, more := range []string{"endpoint=server", "endpoint=client", "endpoint=server,sanity-check=off"} {
			args := []string{"info", "--object", "tls-creds-x509,id=t,dir=" + creds + "," + more, "-f", "raw", "raw.img"}
			if a, b := runNBD(t, dir, tools.img, args...), runNBD(t, dir, tools.ours, args...); a != b {
				t.Errorf("%s %s\noriginal: %+v\nours:     %+v", c.name, more, a, b)
			}
		}
	}
}

// TestTLSCredsUnchecked has servers with certificates that nobody should take. Clients
// that look at them do not, whoever they are.
func TestTLSCredsUnchecked(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	dir := fixtures(t, tools)
	ca := certSpec{name: "authority", basic: "ca", usage: usageCA}.issue(t)
	for _, c := range []struct {
		name string
		cert certSpec
		ok   bool
	}{
		{"good", certSpec{}, true},
		{"expired", certSpec{from: -3 * time.Hour, until: -time.Hour}, false},
		{"later", certSpec{from: 2 * time.Hour, until: 3 * time.Hour}, false},
	} {
		c.cert.name, c.cert.issuer = "host", ca
		own := c.cert.issue(t)
		files := credFiles{"ca-cert.pem": ca.pem(), "server-cert.pem": own.pem(), "server-key.pem": own.keyPEM(t)}
		creds := files.write(t)
		for _, server := range []string{theirs, ours} {
			sock, stop := nbdServe(t, dir, server, "-e", "0", "-f", "raw", "-r", "--tls-creds", "t",
				"--object", "tls-creds-x509,id=t,endpoint=server,sanity-check=off,verify-peer=off,dir="+creds, "raw.img")
			for _, verify := range []string{"on", "off"} {
				for _, program := range []string{tools.img, tools.ours} {
					o := runNBD(t, dir, program, "info", "--object", "tls-creds-x509,id=t,endpoint=client,sanity-check=off,verify-peer="+verify+",dir="+creds,
						"--image-opts", "driver=nbd,server.type=unix,server.path="+sock+",tls-creds=t,tls-hostname=host")
					if want := c.ok || verify == "off"; (o.code == 0) != want {
						t.Errorf("%s server %s, client %s, verify-peer=%s: %+v", c.name, server, program, verify, o)
					}
				}
			}
			stop()
		}
	}
}
