package endtoend

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
)

// makeCerts makes a directory of certificates; the client's key is encrypted if
// there is a password.
func makeCerts(t *testing.T, password string, keyType ...string) string {
	t.Helper()
	testkit.Tool(t, "certtool")
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name, text string) string {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	key := func(name string) string {
		kind := []string{"--key-type", "ecdsa", "--curve", "secp256r1"}
		if len(keyType) > 0 {
			kind = keyType
		}
		testkit.Run(t, "certtool", append(kind, "--generate-privkey", "--outfile", at(name))...)
		return at(name)
	}
	ca := key("ca-key.pem")
	testkit.Run(t, "certtool", "--generate-self-signed", "--load-privkey", ca, "--outfile", at("ca-cert.pem"),
		"--template", write("ca.info", "cn = Test\nca\ncert_signing_key\ncrl_signing_key\n"))
	for who, text := range map[string]string{
		"server": "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\nencryption_key\nsigning_key\n",
		"client": "country = GB\nlocality = \"Here\"\norganization = My Org\ncn = client.example.org\ntls_www_client\nencryption_key\nsigning_key\n",
	} {
		k := key(who + "-key.pem")
		testkit.Run(t, "certtool", "--generate-certificate", "--load-ca-certificate", at("ca-cert.pem"), "--load-ca-privkey", ca,
			"--load-privkey", k, "--template", write(who+".info", text), "--outfile", at(who+"-cert.pem"))
	}
	if password != "" {
		out := testkit.Run(t, "certtool", "--to-p8", "--load-privkey", at("client-key.pem"), "--password", password)
		write("client-key.pem", out[strings.Index(out, "-----BEGIN"):])
	}
	return dir
}

// secrets knows one secret.
type secrets struct{ id, value string }

func (s secrets) Object(id string) driver.Object { return driver.Secrets{s.id: s.value}.Object(id) }

// TestNBDTLS speaks TLS with the clients and servers that people use, both ways.
func TestNBDTLS(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	// QEMU wants a usage that only RSA keys have.
	dir := makeCerts(t, "", "--key-type", "rsa", "--bits", "2048")
	file := nbdImage(t, "raw")
	cfg, err := tlscreds.Server(&driver.TLSCreds{Type: "x509", Server: true, Dir: dir, VerifyPeer: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var seen []string
	conf := server.Config{TLS: cfg, RequireTLS: true, Authorize: func(_ context.Context, p server.Peer) error {
		seen = append(seen, tlscreds.DN(p.TLS.PeerCertificates[0]))
		return nil
	}}
	sock, stop := serveImage(t, file, "raw", false, server.Export{}, conf)
	opts := "driver=nbd,server.type=unix,server.path=" + sock + ",tls-creds=t,tls-hostname=localhost"
	testkit.Run(t, "qemu-img", "compare", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+dir, "--image-opts",
		opts, "driver=file,filename="+file)
	_, errOut, code := testkit.Try(t, "qemu-img", "info", "-f", "raw", nbdURI(sock, ""))
	if code == 0 || !strings.Contains(errOut, "TLS") {
		t.Errorf("without TLS: %s", errOut)
	}
	testkit.Run(t, "nbdinfo", "--size", strings.Replace(nbdURI(sock, ""), "nbd+unix", "nbds+unix", 1)+"&tls-certificates="+dir+"&tls-hostname=localhost")
	creds, err := tlscreds.Client(&driver.TLSCreds{Type: "x509", Dir: dir, VerifyPeer: true}, nil, "localhost")
	if err != nil {
		t.Fatal(err)
	}
	c := dialNBD(t, sock, client.Config{TLS: creds})
	got := make([]byte, 4<<20)
	if err := c.ReadAt(t.Context(), got, 8<<20); err != nil || !bytes.Equal(got[:3<<20], bytes.Repeat([]byte{2}, 3<<20)) {
		t.Errorf("%v", err)
	}
	c.Close()
	stop()
	if len(seen) < 3 || seen[0] != "C=GB,L=Here,O=My Org,CN=client.example.org" {
		t.Errorf("names %q", seen)
	}

	sock = nbdkit(t, "--tls=require", "--tls-certificates="+dir, "--tls-verify-peer", "memory", "8M")
	exercise(t, dialNBD(t, sock, client.Config{TLS: creds}))
	_, err = client.Dial(t.Context(), client.Config{Network: "unix", Address: sock})
	var oe *client.OptionError
	if !errors.As(err, &oe) || !strings.HasPrefix(oe.Error(), "TLS negotiation required before option 7 (go)") {
		t.Errorf("%v", err)
	}
	sock, stop = qemuNBD(t, file, "raw", "-r", "--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir="+dir, "--tls-creds", "t")
	c = dialNBD(t, sock, client.Config{TLS: creds})
	if err := c.ReadAt(t.Context(), got, 8<<20); err != nil {
		t.Errorf("%v", err)
	}
	c.Close()
	stop()
	_, err = client.Dial(t.Context(), client.Config{Network: "unix", Address: nbdkit(t, "memory", "8M"), TLS: creds})
	if !errors.As(err, &oe) || oe.Option.String() != "starttls" {
		t.Errorf("server without TLS: %v", err)
	}
}

// TestNBDTLSRefusals has each side refuse what it must.
func TestNBDTLSRefusals(t *testing.T) {
	dir, other := makeCerts(t, "geheim"), makeCerts(t, "")
	secret := secrets{"pw", "geheim"}
	srv, err := tlscreds.Server(&driver.TLSCreds{Type: "x509", Server: true, Dir: dir, VerifyPeer: true}, nil)
	if err != nil {
		t.Fatal(err)
	}
	dial := func(creds driver.TLSCreds, host string, conf server.Config) error {
		t.Helper()
		creds.Type, creds.PasswordID = "x509", "pw"
		cfg, err := tlscreds.Client(&creds, secret, host)
		if err != nil {
			t.Fatal(err)
		}
		sock, stop := serveImage(t, nbdImage(t, "raw"), "raw", false, server.Export{}, conf)
		defer stop()
		c, err := client.Dial(t.Context(), client.Config{Network: "unix", Address: sock, TLS: cfg})
		if err == nil {
			c.Close()
		}
		return err
	}
	conf := server.Config{TLS: srv}
	if err := dial(driver.TLSCreds{Dir: dir, VerifyPeer: true}, "localhost", conf); err != nil {
		t.Errorf("good: %v", err)
	}
	if err := dial(driver.TLSCreds{Dir: dir, VerifyPeer: true}, "127.0.0.1", conf); err != nil {
		t.Errorf("good address: %v", err)
	}
	if err := dial(driver.TLSCreds{Dir: dir, VerifyPeer: true}, "elsewhere", conf); err == nil || !strings.Contains(err.Error(), "certificate does not match the hostname elsewhere") {
		t.Errorf("wrong host: %v", err)
	}
	if err := dial(driver.TLSCreds{Dir: dir}, "elsewhere", conf); err != nil {
		t.Errorf("unverified: %v", err)
	}
	if err := dial(driver.TLSCreds{Dir: other, VerifyPeer: true}, "localhost", conf); err == nil || !strings.Contains(err.Error(), "hasn't got a known issuer") {
		t.Errorf("foreign server: %v", err)
	}
	if err := dial(driver.TLSCreds{Dir: other}, "localhost", conf); err == nil {
		t.Error("foreign client let in")
	}
	conf.Authorize = func(context.Context, server.Peer) error { return errors.New("no") }
	if err := dial(driver.TLSCreds{Dir: dir, VerifyPeer: true}, "localhost", conf); err == nil {
		t.Error("unauthorized client let in")
	}
	// A server certificate is none for a client.
	swapped := t.TempDir()
	for from, to := range map[string]string{"ca-cert.pem": "ca-cert.pem", "server-cert.pem": "client-cert.pem", "server-key.pem": "client-key.pem"} {
		b, err := os.ReadFile(filepath.Join(dir, from))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(swapped, to), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dial(driver.TLSCreds{Dir: swapped, VerifyPeer: true}, "localhost", server.Config{TLS: srv}); err == nil {
		t.Error("server certificate taken for a client's")
	}
	// A list of revoked certificates that has the client's.
	testkit.Run(t, "certtool", "--generate-crl", "--load-ca-privkey", filepath.Join(dir, "ca-key.pem"), "--load-ca-certificate", filepath.Join(dir, "ca-cert.pem"),
		"--load-certificate", filepath.Join(dir, "client-cert.pem"), "--outfile", filepath.Join(dir, "ca-crl.pem"), "--template", crlTemplate(t))
	if srv, err = tlscreds.Server(&driver.TLSCreds{Type: "x509", Server: true, Dir: dir, VerifyPeer: true}, nil); err != nil {
		t.Fatal(err)
	}
	if err := dial(driver.TLSCreds{Dir: dir, VerifyPeer: true}, "localhost", server.Config{TLS: srv}); err == nil {
		t.Error("revoked client let in")
	}

	for _, c := range []struct {
		creds driver.TLSCreds
		want  string
	}{
		{driver.TLSCreds{Type: "psk", Dir: dir}, "TLS with pre-shared keys (tls-creds-psk) is not supported: use certificates (tls-creds-x509)"},
		{driver.TLSCreds{Type: "anon"}, "TLS with anonymous credentials (tls-creds-anon) is not supported: use certificates (tls-creds-x509)"},
		{driver.TLSCreds{Type: "x509", Server: true, Dir: dir}, "expected TLS credentials for a client endpoint"},
		{driver.TLSCreds{Type: "x509", Dir: "/nowhere"}, "unable to access credentials /nowhere/ca-cert.pem: no such file or directory"},
		{driver.TLSCreds{Type: "x509", Dir: dir, Priority: "NONE"}, "TLS priority 'NONE' is not supported: only NORMAL is"},
	} {
		if _, err := tlscreds.Client(&c.creds, secret, ""); err == nil || err.Error() != c.want {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	if _, err := tlscreds.Client(&driver.TLSCreds{Type: "x509", Dir: dir, PasswordID: "pw"}, secrets{"pw", "wrong"}, ""); err == nil || !strings.Contains(err.Error(), "decryption has failed") {
		t.Errorf("%v", err)
	}
}

func crlTemplate(t *testing.T) string {
	name := filepath.Join(t.TempDir(), "crl.info")
	if err := os.WriteFile(name, []byte("crl_next_update = 10\ncrl_number = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestNBDPlainInjection sends a request in the clear right behind STARTTLS.
func TestNBDPlainInjection(t *testing.T) {
	dir := makeCerts(t, "")
	cfg, err := tlscreds.Server(&driver.TLSCreds{Type: "x509", Server: true, Dir: dir}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sock, _ := serveImage(t, nbdImage(t, "raw"), "raw", false, server.Export{}, server.Config{TLS: cfg})
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.Write([]byte("\x00\x00\x00\x03IHAVEOPT\x00\x00\x00\x05\x00\x00\x00\x00IHAVEOPT\x00\x00\x00\x03\x00\x00\x00\x00"))
	var all bytes.Buffer
	all.ReadFrom(c)
	if n := all.Len(); n != 18 {
		t.Errorf("%d bytes: %x", n, all.Bytes())
	}
}
