//go:build unix

package differential

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/tlscreds"
	"github.com/cowl-disk/cowl/opts"
)

// authority signs certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca := &authority{key: key, cert: &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}}
	der, err := x509.CreateCertificate(rand.Reader, ca.cert, ca.cert, key.Public(), key)
	if err == nil {
		ca.cert, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func writePEM(t *testing.T, name, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(name, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// issue writes the certificate of the authority and, if subject is not nil, one for
// who ("server" or "client") and its key to dir.
func (ca *authority) issue(t *testing.T, dir, who string, subject pkix.RDNSequence, usage x509.ExtKeyUsage) string {
	t.Helper()
	writePEM(t, filepath.Join(dir, "ca-cert.pem"), "CERTIFICATE", ca.cert.Raw)
	if subject == nil {
		return dir
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	name, err := asn1.Marshal(subject)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), RawSubject: name, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{usage}, BasicConstraintsValid: true}
	if usage == x509.ExtKeyUsageServerAuth {
		tmpl.DNSNames, tmpl.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, who+"-cert.pem"), "CERTIFICATE", der)
	writePEM(t, filepath.Join(dir, who+"-key.pem"), "PRIVATE KEY", pkcs8)
	return dir
}

// distinguished makes a name of attributes in order: number of the type and value.
func distinguished(attributes ...any) pkix.RDNSequence {
	var seq pkix.RDNSequence
	for i := 0; i < len(attributes); i += 2 {
		seq = append(seq, pkix.RelativeDistinguishedNameSET{{Type: attributes[i].(asn1.ObjectIdentifier), Value: attributes[i+1]}})
	}
	return seq
}

var (
	oidCN = asn1.ObjectIdentifier{2, 5, 4, 3}
	oidC  = asn1.ObjectIdentifier{2, 5, 4, 6}
	oidL  = asn1.ObjectIdentifier{2, 5, 4, 7}
	oidO  = asn1.ObjectIdentifier{2, 5, 4, 10}
)

// tlsDirs are credentials: of a server and of clients with a good certificate, none, and
// one of another authority.
type tlsDirs struct{ server, client, bare, foreign string }

func makeTLSDirs(t *testing.T) tlsDirs {
	t.Helper()
	ca, other := newAuthority(t, "ours"), newAuthority(t, "other")
	client := distinguished(oidC, "GB", oidL, "Here", oidO, "My Org", oidCN, "client.example.org")
	return tlsDirs{
		server:  ca.issue(t, t.TempDir(), "server", distinguished(oidCN, "localhost"), x509.ExtKeyUsageServerAuth),
		client:  ca.issue(t, t.TempDir(), "client", client, x509.ExtKeyUsageClientAuth),
		bare:    ca.issue(t, t.TempDir(), "", nil, 0),
		foreign: other.issue(t, t.TempDir(), "client", client, x509.ExtKeyUsageClientAuth),
	}
}

// TestQemuNBDTLS has clients of many kinds connect to QEMU's server and to
// ours with TLS: what is let in, and what is said, must not depend on who serves or
// who asks.
func TestQemuNBDTLS(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	nbdinfo, nbdcopy := testkit.Tool(t, "nbdinfo"), testkit.Tool(t, "nbdcopy")
	dirs := makeTLSDirs(t)
	dir := fixtures(t, tools)
	serverCreds := "tls-creds-x509,id=t,endpoint=server,dir=" + dirs.server
	for _, verify := range []string{"on", "off"} {
		var socks [2]string
		for i, program := range []string{theirs, ours} {
			sock, stop := nbdServe(t, dir, program, "-e", "0", "-f", "raw", "-r", "--object", serverCreds+",verify-peer="+verify, "--tls-creds", "t", "raw.img")
			defer stop()
			socks[i] = sock
		}
		for _, c := range []struct {
			name, dir, host string
			ok              bool
		}{
			{"good", dirs.client, "localhost", true},
			{"address", dirs.client, "127.0.0.1", true},
			{"wrong hostname", dirs.client, "elsewhere", false},
			{"no certificate", dirs.bare, "localhost", verify == "off"},
			{"foreign authority", dirs.foreign, "localhost", false},
		} {
			t.Run("verify-peer="+verify+" "+c.name, func(t *testing.T) {
				if verify == "off" && c.ok && c.dir == dirs.client {
					return
				}
				// What only the client minds, it must say as QEMU does.
				byClient := c.dir == dirs.client
				creds := "tls-creds-x509,id=t,endpoint=client,dir=" + c.dir
				for _, sock := range socks {
					image := "driver=nbd,server.type=unix,server.path=" + sock + ",tls-creds=t,tls-hostname=" + c.host
					uri := "nbds+unix:///?socket=" + sock + "&tls-certificates=" + c.dir + "&tls-hostname=" + c.host
					var said [2]string
					for i, program := range []string{tools.img, tools.ours} {
						o := runNBD(t, dir, program, "info", "--object", creds, "--image-opts", image)
						if (o.code == 0) != c.ok {
							t.Errorf("qemu-img %d: %+v", i, o)
						}
						said[i] = nbdVolatile(strings.ReplaceAll(o.stdout+o.stderr, sock, "SOCK"))
					}
					if said[0] != said[1] && byClient {
						t.Errorf("qemu-img: %s\nours: %s", said[0], said[1])
					}
					for i, program := range []string{theirs, ours} {
						o := runNBD(t, dir, program, "-L", "-k", sock, "--object", creds, "--tls-creds", "t", "--tls-hostname", c.host)
						if (o.code == 0) != c.ok {
							t.Errorf("qemu-nbd %d: %+v", i, o)
						}
						said[i] = o.stdout + o.stderr
					}
					if said[0] != said[1] && byClient {
						t.Errorf("qemu-nbd: %s\nours: %s", said[0], said[1])
					}
					commands := [][]string{{tools.ours, "info", uri}}
					// These leave the certificate of the server unchecked on such sockets.
					if c.ok || c.name == "no certificate" {
						commands = append(commands, []string{nbdinfo, "--size", uri}, []string{nbdcopy, uri, "null:"})
					}
					for _, command := range commands {
						if o := runNBD(t, dir, command[0], command[1:]...); (o.code == 0) != c.ok {
							t.Errorf("%s: %+v", command, o)
						}
					}
				}
			})
		}
	}
}

// TestQemuNBDTLSRequired has clients come without TLS, with credentials of the wrong
// kind, and to a server that has no TLS.
func TestQemuNBDTLSRequired(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	dirs := makeTLSDirs(t)
	dir := fixtures(t, tools)
	for _, program := range []string{theirs, ours} {
		with, stop := nbdServe(t, dir, program, "-e", "0", "-f", "raw", "-r", "--object", "tls-creds-x509,id=t,endpoint=server,dir="+dirs.server, "--tls-creds", "t", "raw.img")
		defer stop()
		without, stop := nbdServe(t, dir, program, "-e", "0", "-f", "raw", "-r", "raw.img")
		defer stop()
		creds := "tls-creds-x509,id=t,endpoint=client,dir=" + dirs.client
		for _, c := range []struct {
			clients [2]string
			args    []string
		}{
			{[2]string{tools.img, tools.ours}, []string{"info", "nbd+unix:///?socket=" + with}},
			{[2]string{tools.img, tools.ours}, []string{"info", "--object", creds, "--image-opts", "driver=nbd,path=" + without + ",tls-creds=t"}},
			{[2]string{tools.img, tools.ours}, []string{"info", "--image-opts", "driver=nbd,path=" + with + ",tls-creds=t"}},
			{[2]string{theirs, ours}, []string{"-L", "-k", with}},
			{[2]string{theirs, ours}, []string{"-L", "-k", without, "--object", creds, "--tls-creds=t"}},
			{[2]string{theirs, ours}, []string{"-L", "-k", with, "--object", "tls-creds-x509,id=t,endpoint=server,dir=" + dirs.server, "--tls-creds=t"}},
			{[2]string{theirs, ours}, []string{"-L", "-k", with, "--object", "secret,id=t,data=x", "--tls-creds=t"}},
			{[2]string{theirs, ours}, []string{"-k", "/nosock", "--object", creds, "--tls-creds=t", "-f", "raw", "raw.img"}},
			{[2]string{tools.img, tools.ours}, []string{"info", "--object", "tls-creds-x509,id=t,endpoint=server,dir=" + dirs.server, "--image-opts", "driver=nbd,path=" + with + ",tls-creds=t"}},
			{[2]string{tools.img, tools.ours}, []string{"info", "--object", "secret,id=t,data=x", "--image-opts", "driver=nbd,path=" + with + ",tls-creds=t"}},
		} {
			a, b := runNBD(t, dir, c.clients[0], c.args...), runNBD(t, dir, c.clients[1], c.args...)
			if a != b || a.code == 0 {
				t.Errorf("%q\noriginal: %+v\nours:     %+v", c.args, a, b)
			}
		}
	}
}

// TestQemuNBDTLSCopies converts from and to exports with TLS, by both ways to name
// them.
func TestQemuNBDTLSCopies(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	dirs := makeTLSDirs(t)
	dir := fixtures(t, tools)
	for _, program := range []string{theirs, ours} {
		creds := []string{"--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir=" + dirs.server, "--tls-creds", "t"}
		src, stop := nbdServe(t, dir, program, append(creds, "-e", "0", "-f", "qcow2", "-r", "a.qcow2")...)
		testkit.Run(t, "truncate", "-s", "0", filepath.Join(dir, "rw.img"))
		size := strings.Fields(testkit.Run(t, tools.ours, "measure", "-O", "raw", filepath.Join(dir, "a.qcow2")))[2]
		testkit.Run(t, "truncate", "-s", size, filepath.Join(dir, "rw.img"))
		dst, stopDst := nbdServe(t, dir, program, append(creds, "-f", "raw", "--discard=unmap", "rw.img")...)
		query := "&tls-certificates=" + dirs.client + "&tls-hostname=localhost"
		uri := func(sock string) string { return "nbds+unix:///?socket=" + sock + query }
		nbdRun(t, tools.ours, "convert", "-n", "-f", "raw", "-O", "raw", uri(src), uri(dst))
		nbdRun(t, tools.ours, "compare", "-f", "raw", "-F", "qcow2", uri(src), filepath.Join(dir, "a.qcow2"))
		image := "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=" + dst + ",file.tls-creds=t,file.tls-hostname=localhost"
		nbdRun(t, tools.ours, "convert", "--object", "tls-creds-x509,id=t,endpoint=client,dir="+dirs.client, "--image-opts", "-n", "--target-image-opts",
			strings.Replace(image, dst, src, 1), image)
		stop()
		stopDst()
		nbdRun(t, tools.img, "compare", "-f", "raw", "-F", "qcow2", filepath.Join(dir, "rw.img"), filepath.Join(dir, "a.qcow2"))
	}
	// What we do not have may be defined, and says when it is used what is there instead.
	if err := os.WriteFile(filepath.Join(dirs.client, "keys.psk"), []byte("qemu:00112233\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--object", "tls-creds-psk,id=t,endpoint=client,dir=" + dirs.client, "--image-opts", "driver=nbd,server.type=unix,server.path=/nosock,tls-creds=t"},
		{"--object", "tls-creds-anon,id=t,endpoint=client", "--image-opts", "driver=nbd,server.type=unix,server.path=/nosock,tls-creds=t"},
		{"nbds+unix:///?socket=/nosock&tls-psk-file=/x"},
	} {
		if o := runNBD(t, dir, tools.ours, append([]string{"info"}, args...)...); o.code != 1 || !strings.Contains(o.stderr, "not supported") || !strings.Contains(o.stderr, "use certificates") {
			t.Errorf("%q: %+v", args, o)
		}
	}
}

// TestQemuNBDAuthz has both servers decide who may connect: the same distinguished
// names must be let in.
func TestQemuNBDAuthz(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	dir := fixtures(t, needCLI(t))
	ca := newAuthority(t, "authority")
	server := ca.issue(t, t.TempDir(), "server", distinguished(oidCN, "localhost"), x509.ExtKeyUsageServerAuth)
	ia5 := func(s string) asn1.RawValue { return asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s)} }
	odd := distinguished(oidC, "GB", asn1.ObjectIdentifier{2, 5, 4, 8}, "Kent, ÄÖ", oidL, "Here + there", oidO, " My Org;<x>=#",
		asn1.ObjectIdentifier{2, 5, 4, 11}, `a\b"q`, asn1.ObjectIdentifier{2, 5, 4, 4}, "sn", asn1.ObjectIdentifier{2, 5, 4, 9}, "street",
		asn1.ObjectIdentifier{2, 5, 4, 13}, "what", asn1.ObjectIdentifier{2, 5, 4, 72}, "role", asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, ia5("dc"),
		asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}, ia5("e@x.org"), asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 311, 60, 2, 1, 3}, "DE", asn1.ObjectIdentifier{1, 2, 3, 4}, "foo",
		oidCN, asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte{0, 'b', 0, 0xe4}}, oidCN, asn1.RawValue{Tag: asn1.TagT61String, Bytes: []byte("t\xe4")}, oidCN, "#end ")
	odd = append(odd, pkix.RelativeDistinguishedNameSET{{Type: oidCN, Value: "two"}, {Type: oidO, Value: "in one"}})
	var clients []client.Config
	var names []string
	for _, subject := range []pkix.RDNSequence{distinguished(oidC, "GB", oidO, "My Org", oidCN, "a.example.org"), distinguished(oidC, "GB", oidO, "My Org", oidCN, "b.example.org"), odd} {
		d := ca.issue(t, t.TempDir(), "client", subject, x509.ExtKeyUsageClientAuth)
		text, err := os.ReadFile(filepath.Join(d, "client-cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tlscreds.DN(cert))
		creds, err := tlscreds.Client(&driver.TLSCreds{Type: "x509", Dir: d, VerifyPeer: true}, nil, "localhost")
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, client.Config{Network: "unix", TLS: creds})
	}
	const a = "C=GB,,O=My Org,,CN=a.example.org"
	for _, c := range []struct {
		def  string
		want [3]bool
	}{
		{"authz-simple,id=z,identity=" + a, [3]bool{true, false, false}},
		{"authz-simple,id=z,identity=CN=a.example.org,,O=My Org,,C=GB", [3]bool{}},
		{"authz-simple,id=z,identity=" + opts.EscapeComma(names[2]), [3]bool{false, false, true}},
		{"authz-list,id=z", [3]bool{}},
		{"authz-list,id=z,policy=allow", [3]bool{true, true, true}},
		{"authz-list,id=z,policy=allow,rules.0.match=" + a + ",rules.0.policy=deny", [3]bool{false, true, true}},
		{"authz-list,id=z,rules.0.match=*CN=a.*,rules.0.policy=deny,rules.0.format=glob,rules.1.match=C=??,,O=My*.org,rules.1.policy=allow,rules.1.format=glob", [3]bool{false, true, false}},
		{"authz-list,id=z,rules.0.match=C=GB*,rules.0.policy=allow,rules.0.format=exact,rules.1.match=*b.e[x]ample*,rules.1.policy=allow,rules.1.format=glob", [3]bool{}},
		{`{"qom-type":"authz-list","id":"z","policy":"deny","rules":[{"match":"*","policy":"allow","format":"glob"},{"match":"*","policy":"deny","format":"glob"}]}`, [3]bool{true, true, true}},
		{`{"qom-type":"authz-list","id":"z","rules":[{"match":"*ST=Kent*?Ö,*","policy":"allow","format":"glob"}]}`, [3]bool{false, false, true}},
	} {
		for _, program := range []string{theirs, ours} {
			sock, stop := nbdServe(t, dir, program, "-e", "0", "-f", "raw", "-r", "--object", "tls-creds-x509,id=t,endpoint=server,verify-peer=on,dir="+server,
				"--object", c.def, "--tls-creds", "t", "--tls-authz", "z", "raw.img")
			for i, cfg := range clients {
				cfg.Address = sock
				conn, err := client.Dial(t.Context(), cfg)
				if err == nil {
					conn.Close()
				}
				if (err == nil) != c.want[i] {
					t.Errorf("%s %s\n%s: %v", filepath.Dir(program), c.def, names[i], err)
				}
			}
			stop()
		}
	}
}
