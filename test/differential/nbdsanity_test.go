//go:build unix

package differential

import (
	"crypto/x509"
	"encoding/asn1"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

type credCase struct {
	name  string
	files credFiles
	more  string // further parameters of the object
	ends  string // "s" for servers, "c" for clients, "sc" for both
}

// credCases are directories of credentials.
func credCases(t *testing.T) []credCase {
	day := 24 * time.Hour
	ca := certSpec{name: "authority", basic: "ca", usage: usageCA}.issue(t)
	leaf := func(s certSpec) *issued {
		if s.name == "" {
			s.name = "host.example.org"
		}
		if s.issuer == nil {
			s.issuer = ca
		}
		return s.issue(t)
	}
	// pair gives both roles the same certificate.
	pair := func(authorities string, c *issued) credFiles {
		return credFiles{"ca-cert.pem": authorities, "server-cert.pem": c.pem(), "server-key.pem": c.keyPEM(t), "client-cert.pem": c.pem(), "client-key.pem": c.keyPEM(t)}
	}
	authority := func(s certSpec) credFiles {
		s.name = "other authority"
		other := s.issue(t)
		return pair(other.pem(), leaf(certSpec{issuer: other}))
	}
	own := func(s certSpec) credFiles { return pair(ca.pem(), leaf(s)) }
	plain := leaf(certSpec{basic: "not ca", usage: usageBoth, purpose: []asn1.ObjectIdentifier{purposeServer, purposeClient}})
	good := pair(ca.pem(), plain)
	both := func(f credFiles, what, text string) credFiles {
		return f.with("server-"+what+".pem", text, "client-"+what+".pem", text)
	}
	expired := certSpec{from: -2 * day, until: -day}
	early := certSpec{from: day, until: 2 * day}
	old, young := certSpec{name: "old", basic: "ca", from: -2 * day, until: -day}.issue(t), certSpec{name: "young", basic: "ca", from: day, until: 2 * day}.issue(t)
	foreign := certSpec{name: "foreign", basic: "ca", usage: usageCA}.issue(t)
	between := leaf(certSpec{name: "between", basic: "ca", usage: usageCA})
	below := leaf(certSpec{issuer: between})
	cut := ca.pem()[:200] + "\n-----END CERTIFICATE-----\n"
	cases := []credCase{
		{"good", good, "", "sc"},
		{"nothing said", own(certSpec{}), "", "sc"},
		{"authority only", credFiles{"ca-cert.pem": ca.pem()}, "", "sc"},
		{"no authority", good.with("ca-cert.pem", ""), "", "sc"},
		{"no certificate", both(good, "cert", ""), "", "sc"},
		{"no key", both(good, "key", ""), "", "sc"},
		{"empty directory", credFiles{}, "", "sc"},
		{"authority expired", authority(certSpec{basic: "ca", from: -2 * day, until: -day}), "", "sc"},
		{"authority not yet active", authority(certSpec{basic: "ca", from: day, until: 2 * day}), "", "sc"},
		{"authority without constraints", authority(certSpec{}), "", "sc"},
		{"authority that is none", authority(certSpec{basic: "not ca"}), "", "sc"},
		{"authority that must not sign", authority(certSpec{basic: "ca", usage: x509.KeyUsageDigitalSignature}), "", "sc"},
		{"authority that should not sign", authority(certSpec{basic: "ca", usage: x509.KeyUsageDigitalSignature, optional: true}), "", "sc"},
		{"authority without usage", authority(certSpec{basic: "ca"}), "", "sc"},
		{"expired", own(expired), "", "sc"},
		{"not yet active", own(early), "", "sc"},
		{"is an authority", own(certSpec{basic: "ca"}), "", "sc"},
		{"must not sign", own(certSpec{usage: x509.KeyUsageKeyEncipherment}), "", "sc"},
		{"must not encipher", own(certSpec{usage: x509.KeyUsageDigitalSignature}), "", "sc"},
		{"should not sign", own(certSpec{usage: x509.KeyUsageKeyEncipherment, optional: true}), "", "sc"},
		{"should not encipher", own(certSpec{usage: x509.KeyUsageDigitalSignature, optional: true}), "", "sc"},
		{"server by law", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeServer}, must: true}), "", "sc"},
		{"client by law", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeClient}, must: true}), "", "sc"},
		{"server by advice", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeServer}}), "", "sc"},
		{"client by advice", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeClient}}), "", "sc"},
		{"any purpose", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeAny}, must: true}), "", "sc"},
		{"both purposes and more", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeSign, purposeClient, purposeServer}, must: true}), "", "sc"},
		{"other purpose", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeSign}, must: true}), "", "sc"},
		{"foreign authority", good.with("ca-cert.pem", foreign.pem()), "", "sc"},
		{"same name and other authority", good.with("ca-cert.pem", certSpec{name: "authority", basic: "ca", usage: usageCA}.issue(t).pem()), "", "sc"},
		{"second authority", good.with("ca-cert.pem", foreign.pem()+ca.pem()), "", "sc"},
		{"second authority expired", good.with("ca-cert.pem", ca.pem()+old.pem()), "", "sc"},
		{"second authority not yet active", good.with("ca-cert.pem", ca.pem()+young.pem()), "", "sc"},
		{"second authority is none", good.with("ca-cert.pem", ca.pem()+plain.pem()), "", "sc"},
		{"16 authorities", good.with("ca-cert.pem", strings.Repeat(foreign.pem(), 15)+ca.pem()), "", "sc"},
		{"17 authorities", good.with("ca-cert.pem", strings.Repeat(foreign.pem(), 16)+ca.pem()), "", "sc"},
		{"text around", both(good, "cert", "Issuer: somebody\n\n"+plain.pem()+"\nThe end.\n"), "", "sc"},
		{"key before certificate", both(good, "cert", plain.keyPEM(t)+plain.pem()), "", "sc"},
		{"intermediate among the authorities", pair(ca.pem()+between.pem(), below), "", "sc"},
		{"intermediate only", pair(between.pem(), below), "", "sc"},
		{"intermediate missing", pair(ca.pem(), below), "", "sc"},
		{"signed by itself", pair(ca.pem(), certSpec{name: "alone"}.issue(t)), "", "sc"},
		{"authority empty", good.with("ca-cert.pem", "\n"), "", "sc"},
		{"authority no PEM", good.with("ca-cert.pem", "hello\n"), "", "sc"},
		{"authority damaged", good.with("ca-cert.pem", damaged("CERTIFICATE")), "", "sc"},
		{"authority cut", good.with("ca-cert.pem", cut), "", "sc"},
		{"authority is a key", good.with("ca-cert.pem", plain.keyPEM(t)), "", "sc"},
		{"authority is a directory", good.with("ca-cert.pem", "", "ca-cert.pem/", "x"), "", "sc"},
		{"certificate empty", both(good, "cert", "\n"), "", "sc"},
		{"certificate no PEM", both(good, "cert", "hello\n"), "", "sc"},
		{"certificate damaged", both(good, "cert", damaged("CERTIFICATE")), "", "sc"},
		{"certificate cut", both(good, "cert", cut), "", "sc"},
		{"certificate is a key", both(good, "cert", plain.keyPEM(t)), "", "sc"},
		{"certificate is a directory", good.with("server-cert.pem", "", "client-cert.pem", "", "server-cert.pem/", "x", "client-cert.pem/", "x"), "", "sc"},
		{"key empty", both(good, "key", "\n"), "", "sc"},
		{"key no PEM", both(good, "key", "hello\n"), "", "sc"},
		{"key damaged", both(good, "key", damaged("PRIVATE KEY")), "", "sc"},
		{"key is a certificate", both(good, "key", plain.pem()), "", "sc"},
		{"key of somebody else", both(good, "key", below.keyPEM(t)), "", "sc"},
		{"revocations", good.with("ca-crl.pem", ca.revoke(t, below)), "", "sc"},
		{"revoked", good.with("ca-crl.pem", ca.revoke(t, plain)), "", "sc"},
		{"revocations of another", good.with("ca-crl.pem", foreign.revoke(t, plain)), "", "sc"},
		{"revocations empty", good.with("ca-crl.pem", "\n"), "", "s"},
		{"revocations damaged", good.with("ca-crl.pem", damaged("X509 CRL")), "", "s"},
		{"parameters damaged", good.with("dh-params.pem", "hello\n"), "", "sc"},
		{"authority and certificate bad", own(expired).with("ca-cert.pem", old.pem()), "", "sc"},
		{"unchecked good", good, ",sanity-check=off", "sc"},
		{"unchecked expired", own(expired), ",sanity-check=off", "sc"},
		{"unchecked not yet active", own(early), ",sanity-check=no", "sc"},
		{"unchecked authority expired", authority(certSpec{basic: "ca", from: -2 * day, until: -day}), ",sanity-check=off", "sc"},
		{"unchecked authority that is none", authority(certSpec{basic: "not ca"}), ",sanity-check=off", "sc"},
		{"unchecked is an authority", own(certSpec{basic: "ca"}), ",sanity-check=off", "sc"},
		{"unchecked other purpose", own(certSpec{purpose: []asn1.ObjectIdentifier{purposeSign}, must: true}), ",sanity-check=off", "sc"},
		{"unchecked foreign authority", good.with("ca-cert.pem", foreign.pem()), ",sanity-check=off", "sc"},
		{"unchecked 17 authorities", good.with("ca-cert.pem", strings.Repeat(foreign.pem(), 16)+ca.pem()), ",sanity-check=off", "sc"},
		{"unchecked no authority", good.with("ca-cert.pem", ""), ",sanity-check=off", "sc"},
		{"unchecked no certificate", both(good, "cert", ""), ",sanity-check=off", "sc"},
		{"unchecked authority no PEM", good.with("ca-cert.pem", "hello\n"), ",sanity-check=off", "sc"},
		{"unchecked authority damaged", good.with("ca-cert.pem", damaged("CERTIFICATE")), ",sanity-check=off", "sc"},
		{"unchecked authority is a directory", good.with("ca-cert.pem", "", "ca-cert.pem/", "x"), ",sanity-check=off", "sc"},
		{"unchecked certificate no PEM", both(good, "cert", "hello\n"), ",sanity-check=off", "sc"},
		{"unchecked certificate damaged", both(good, "cert", damaged("CERTIFICATE")), ",sanity-check=off", "sc"},
		{"unchecked key of somebody else", both(good, "key", below.keyPEM(t)), ",sanity-check=off", "sc"},
		{"unverified expired", own(expired), ",verify-peer=off", "sc"},
		{"unverified foreign authority", good.with("ca-cert.pem", foreign.pem()), ",verify-peer=off", "sc"},
		{"unverified no authority", good.with("ca-cert.pem", ""), ",verify-peer=off", "sc"},
		{"unverified good", good, ",verify-peer=off,sanity-check=on", "sc"},
		{"priority", good, ",priority=NORMAL", "sc"},
		{"priority bad", good, ",priority=bogus", "sc"},
		{"priority and expired", own(expired), ",priority=NORMAL", "sc"},
		{"check bad", good, ",sanity-check=maybe", "sc"},
		{"password not needed", good, ",passwordid=pw", "sc"},
		{"password unknown", good, ",passwordid=nope", "sc"},
		{"password unknown and no certificate", credFiles{"ca-cert.pem": ca.pem()}, ",passwordid=nope", "c"},
	}
	return cases
}

// TestTLSCredsDefined has both programs define credentials: what is wrong with them is
// said at once, whether they are used or not.
func TestTLSCredsDefined(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	tools := needCLI(t)
	dir := fixtures(t, tools)
	for i, c := range credCases(t) {
		// The race detector sees nothing of the programs.
		if !testkit.Sample(i, 3) || i%4 != 0 && testkit.Race {
			continue
		}
		t.Run(c.name, func(t *testing.T) {
			creds := c.files.write(t)
			for _, e := range c.ends {
				endpoint := map[rune]string{'s': "server", 'c': "client"}[e]
				args := []string{"--object", "secret,id=pw,data=secret", "--object", "tls-creds-x509,id=t,endpoint=" + endpoint + ",dir=" + creds + c.more}
				info := append(append([]string{"info"}, args...), "-f", "raw", "raw.img")
				a, b := runNBD(t, dir, tools.img, info...), runNBD(t, dir, tools.ours, info...)
				if a != b {
					t.Errorf("%s: qemu-img %s\noriginal: %+v\nours:     %+v", endpoint, args, a, b)
				}
				// The server says the same; every fourth is enough.
				if i%4 != 0 || a.code == 0 {
					continue
				}
				args = append(args, "--tls-creds", "t", "-L")
				if a, b = runNBD(t, dir, theirs, args...), runNBD(t, dir, ours, args...); a != b {
					t.Errorf("%s: qemu-nbd %s\noriginal: %+v\nours:     %+v", endpoint, args, a, b)
				}
			}
		})
	}
}

// TestTLSCredsOfOtherKinds has both programs define credentials that are no
// certificates.
func TestTLSCredsOfOtherKinds(t *testing.T) {
	tools := needCLI(t)
	dir := fixtures(t, tools)
	keys := credFiles{"keys.psk": "qemu:00112233\n"}.write(t)
	params := credFiles{"dh-params.pem": "hello\n"}.write(t)
	for _, def := range []string{
		"tls-creds-psk,id=t", "tls-creds-psk,id=t,dir=/nowhere", "tls-creds-psk,id=t,dir=" + params, "tls-creds-psk,id=t,endpoint=server,dir=" + params,
		"tls-creds-psk,id=t,endpoint=client,username=qemu,dir=" + keys, "tls-creds-psk,id=t,endpoint=server,dir=" + keys, "tls-creds-psk,id=t,endpoint=x,dir=" + keys,
		"tls-creds-psk,id=t,endpoint=client,username=nobody,dir=" + keys, "tls-creds-psk,id=t,endpoint=server,username=qemu,dir=" + keys,
		"tls-creds-psk,id=t,passwordid=x,dir=" + keys, "tls-creds-anon,id=t", "tls-creds-anon,id=t,endpoint=server", "tls-creds-anon,id=t,dir=/nowhere",
		"tls-creds-anon,id=t,endpoint=server,dir=/nowhere", "tls-creds-anon,id=t,endpoint=server,dir=" + params, "tls-creds-anon,id=t,endpoint=client,dir=" + params,
		"tls-creds-x509,id=t", "tls-creds-x509,id=t,dir=/nowhere", "tls-creds-x509,id=t,endpoint=server,dir=raw.img", "tls-creds-x509,dir=/nowhere",
		"tls-creds-x509,help", "tls-creds-psk,help", "tls-creds-anon,help", "secret,help", "authz-simple,help", "authz-list,help", "authz-list-file,help",
	} {
		args := []string{"info", "--object", def, "-f", "raw", "raw.img"}
		if a, b := runNBD(t, dir, tools.img, args...), runNBD(t, dir, tools.ours, args...); a != b {
			t.Errorf("%s\noriginal: %+v\nours:     %+v", def, a, b)
		}
	}
}
