package ssh_test

import (
	"context"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// opens opens and closes a disk, and checks what comes of it: want is a part of the
// error, "" for none.
func opens(t *testing.T, what, name string, o openOptions, want string) {
	t.Helper()
	n, err := tryOpen(context.Background(), name, o)
	if err == nil {
		err = n.Close(context.Background())
	}
	switch {
	case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: %v, want %q", what, err, want)
	case err != nil && !errors.Is(err, driver.ErrInvalid):
		t.Errorf("%s: the kind of %v", what, err)
	}
}

// TestHostKeys: the key of the server has to be known, in each form of known_hosts and
// by each hash.
func TestHostKeys(t *testing.T) {
	path, _ := newFile(t, 1000)
	s := newServer(t, nil)
	_, other := newKey(t)
	at, key := s.Addr().String(), s.host.PublicKey()
	line := func(key xssh.PublicKey) string { return knownhosts.Line([]string{at}, key) + "\n" }
	hashed := strings.Replace(line(key), knownhosts.Normalize(at), knownhosts.HashHostname(knownhosts.Normalize(at)), 1)
	for _, c := range []struct{ what, known, want string }{
		{"known", line(key), ""},
		{"hashed", hashed, ""},
		{"among others", line(other.PublicKey()) + line(key), ""},
		{"another host", "otherhost " + strings.SplitN(line(key), " ", 2)[1], "no host key was found in known_hosts"},
		{"another port", strings.Replace(line(key), ":"+s.port(), ":1", 1), "no host key was found in known_hosts"},
		{"port 22", strings.Replace(line(key), knownhosts.Normalize(at), "127.0.0.1", 1), "no host key was found in known_hosts"},
		{"changed", line(other.PublicKey()), "does not match the one in known_hosts; this may be a possible attack"},
		{"revoked", line(key) + "@revoked " + line(key), "is marked as revoked in"},
		{"nothing", "", "no host key was found in known_hosts"},
		{"damaged", "127.0.0.1 ssh-ed25519 !\n", "could not read the known_hosts files"},
	} {
		s.write(t, "known_hosts", c.known)
		opens(t, c.what, s.url(path), openOptions{}, c.want)
		opens(t, c.what+", not checked", s.url(path)+"?host_key_check=no", openOptions{}, "")
	}
	blob := key.Marshal()
	hashes := map[string]string{"md5": fmt.Sprintf("%x", md5.Sum(blob)), "sha1": fmt.Sprintf("%x", sha1.Sum(blob)), "sha256": fmt.Sprintf("%X", sha256.Sum256(blob))}
	for kind, hash := range hashes {
		colons := hash[:2] + ":" + hash[2:]
		wrong := "00" + hash[2:]
		if wrong == hash {
			wrong = "11" + hash[2:]
		}
		opens(t, kind, s.url(path)+"?host_key_check="+kind+":"+colons, openOptions{}, "")
		opens(t, kind, s.url(path), openOptions{options: opts.Dict{"host-key-check.mode": "hash", "host-key-check.type": kind, "host-key-check.hash": hash}}, "")
		opens(t, kind+" wrong", s.url(path)+"?host_key_check="+kind+":"+wrong, openOptions{}, "does not match host_key_check '"+kind+":"+wrong+"'")
		opens(t, kind+" short", s.url(path)+"?host_key_check="+kind+":"+hash[:20], openOptions{}, "does not match host_key_check")
	}
	if err := os.Remove(s.dotSSH("known_hosts")); err != nil {
		t.Fatal(err)
	}
	opens(t, "no file", s.url(path), openOptions{}, "known_hosts file not found")
}

// TestLogin: passwords, keys of files and of an agent, certificates.
func TestLogin(t *testing.T) {
	path, _ := newFile(t, 1000)
	_, ca := newKey(t)
	ofAgent, _ := newKey(t)
	withCert, certified := newKey(t)
	locked, lockedSigner := newKey(t)
	cert := &xssh.Certificate{Key: certified.PublicKey(), CertType: xssh.UserCert, ValidPrincipals: []string{"joe"}, ValidBefore: xssh.CertTimeInfinity}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	agentSigner, err := xssh.NewSignerFromKey(ofAgent)
	if err != nil {
		t.Fatal(err)
	}
	keyboard := false
	s := newServer(t, func(s *sshServer) {
		check := &xssh.CertChecker{IsUserAuthority: func(k xssh.PublicKey) bool { return string(k.Marshal()) == string(ca.PublicKey().Marshal()) },
			UserKeyFallback: func(_ xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
				for _, ok := range []xssh.Signer{agentSigner, lockedSigner} {
					if string(ok.PublicKey().Marshal()) == string(k.Marshal()) {
						return nil, nil
					}
				}
				return nil, errors.New("another key")
			}}
		s.config.PublicKeyCallback = check.Authenticate
		s.config.PasswordCallback = func(c xssh.ConnMetadata, p []byte) (*xssh.Permissions, error) {
			if keyboard || c.User() != "joe" || string(p) != "secret-pass" {
				return nil, errors.New("no")
			}
			return nil, nil
		}
		s.config.KeyboardInteractiveCallback = func(c xssh.ConnMetadata, ask xssh.KeyboardInteractiveChallenge) (*xssh.Permissions, error) {
			answers, err := ask("", "", []string{"Password: "}, []bool{false})
			if err != nil || !keyboard || len(answers) != 1 || answers[0] != "secret-pass" {
				return nil, errors.New("no")
			}
			return nil, nil
		}
	})
	name := strings.Replace(s.url(path), "://", "://joe@", 1)
	objects := driver.Secrets{"right": "secret-pass", "wrong": "wrong-pass"}
	noKey := "failed to authenticate using publickey authentication and the identities held by your ssh-agent"
	opens(t, "a key that is not taken", name, openOptions{}, noKey)
	password := func(id string) openOptions {
		return openOptions{objects: objects, options: opts.Dict{"password-secret": id}}
	}
	opens(t, "password", name, password("right"), "")
	opens(t, "in the URL", name+"?password-secret=right", openOptions{objects: objects}, "")
	opens(t, "wrong password", name, password("wrong"), "failed to authenticate with the password of 'joe' or a key")
	opens(t, "no secret", name, password("none"), "no secret with id 'none'")
	keyboard = true
	opens(t, "asked for it", name, password("right"), "")
	opens(t, "asked for it, wrong", name, password("wrong"), "failed to authenticate")
	opens(t, "password in a URL", strings.Replace(name, "joe", "joe:secret-pass", 1), openOptions{}, "a URL cannot hold a password")

	s.writeKey(t, "locked", locked, "secret-pass")
	key := func(id string) openOptions {
		d := opts.Dict{"identity": s.dotSSH("locked")}
		if id != "" {
			d["key-secret"] = id
		}
		return openOptions{objects: objects, options: d}
	}
	opens(t, "encrypted key", name, key("right"), "")
	opens(t, "wrong passphrase", name, key("wrong"), "could not decrypt the private key")
	opens(t, "no such key", name, openOptions{options: opts.Dict{"identity": s.dotSSH("none")}}, "could not read the private key")

	s.writeKey(t, "id_ed25519", withCert, "")
	opens(t, "without the certificate", name, openOptions{}, noKey)
	s.write(t, "id_ed25519-cert.pub", string(xssh.MarshalAuthorizedKey(cert)))
	opens(t, "certificate", name, openOptions{}, "")
	if err := os.Remove(s.dotSSH("id_ed25519-cert.pub")); err != nil {
		t.Fatal(err)
	}

	ring := agent.NewKeyring()
	if err := ring.Add(agent.AddedKey{PrivateKey: ofAgent}); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(ring, c); c.Close() }()
		}
	}()
	t.Setenv("SSH_AUTH_SOCK", socket)
	opens(t, "agent", name, openOptions{}, "")
	s.write(t, "config", "IdentitiesOnly yes\n")
	opens(t, "agent, but only identities", name, openOptions{}, noKey)
	t.Setenv("SSH_AUTH_SOCK", "")
	s.write(t, "config", "Host 127.0.0.1\n IdentityAgent "+socket+"\n")
	opens(t, "another agent", name, openOptions{}, "")
}

// TestConfig: what ~/.ssh/config says counts, and what the user says wins.
func TestConfig(t *testing.T) {
	path, _ := newFile(t, 1000)
	user := ""
	s := newServer(t, func(s *sshServer) {
		allowed := s.config.PublicKeyCallback
		s.config.PublicKeyCallback = func(c xssh.ConnMetadata, k xssh.PublicKey) (*xssh.Permissions, error) {
			user = c.User()
			return allowed(c, k)
		}
	})
	for _, name := range []string{"id_ed25519", "known_hosts"} {
		if err := os.Rename(s.dotSSH(name), s.dotSSH("my_"+name)); err != nil {
			t.Fatal(err)
		}
	}
	config := fmt.Sprintf("Match user x\n Port 1\nHost disks\n HostName 127.0.0.1\n Port %s\n User ann\n IdentityFile ~/.ssh/my_id_ed25519\n UserKnownHostsFile ~/.ssh/my_known_hosts\n HostKeyAlgorithms ssh-ed25519\n", s.port())
	s.write(t, "config", config)
	var warned []string
	o := openOptions{warn: func(w string) { warned = append(warned, w) }}
	opens(t, "alias", "ssh://disks"+path, o, "")
	if user != "ann" || len(warned) != 1 || !strings.Contains(warned[0], "Match") {
		t.Errorf("user %q, warnings %q", user, warned)
	}
	n := open(t, "ssh://disks"+path, openOptions{})
	if got, want := n.(driver.Named).Filename(), "ssh://ann@disks:"+s.port()+path; got != want {
		t.Errorf("name %s, want %s", got, want)
	}
	opens(t, "user given", "ssh://bob@disks"+path, openOptions{}, "")
	if user != "bob" {
		t.Errorf("user %q", user)
	}
	opens(t, "port given", "ssh://disks:1"+path, openOptions{}, "failed to connect to '127.0.0.1:1': connection refused")
	s.write(t, "config", strings.Replace(config, "ssh-ed25519", "ssh-rsa-x", 1))
	opens(t, "algorithms", "ssh://disks"+path, openOptions{}, "none of the HostKeyAlgorithms")
	s.write(t, "config", strings.Replace(config, "ssh-ed25519", "rsa-sha2-512", 1))
	opens(t, "algorithms that the server lacks", "ssh://disks"+path, openOptions{}, "failed to establish SSH session")
	if err := errors.Join(os.Remove(s.dotSSH("config")), os.Mkdir(s.dotSSH("config"), 0o700)); err != nil {
		t.Fatal(err)
	}
	opens(t, "unreadable", "ssh://disks"+path, openOptions{}, "could not read the configuration of ssh")
}

// TestProxies: over other servers, and over a command.
func TestProxies(t *testing.T) {
	path, _ := newFile(t, 1000)
	s := newServer(t, nil)
	jump := newServer(t, nil) // HOME is its home now
	s.write(t, "x", "")
	known := knownhosts.Line([]string{jump.Addr().String()}, jump.host.PublicKey()) + "\n"
	both := known + knownhosts.Line([]string{"hidden"}, s.host.PublicKey()) + "\n"
	jump.write(t, "known_hosts", both)
	keys := " IdentityFile " + s.dotSSH("id_ed25519") + "\n"
	base := "Host hidden\n HostName 127.0.0.1\n HostKeyAlias hidden\n Port " + s.port() + "\n" + keys
	through := "Host gate\n HostName 127.0.0.1\n Port " + jump.port() + "\nHost 127.0.0.1\n IdentityFile " + jump.dotSSH("id_ed25519") + "\n"
	through += strings.Replace(base, "Host hidden\n", "Host hidden\n ProxyJump gate\n", 1) + "Host gate\n IdentityFile " + jump.dotSSH("id_ed25519") + "\n"
	jump.write(t, "config", through)
	opens(t, "jump", "ssh://hidden"+path, openOptions{}, "")
	if jump.passed != 1 {
		t.Errorf("%d connections were passed on", jump.passed)
	}
	jump.write(t, "known_hosts", strings.TrimPrefix(both, known))
	opens(t, "unknown jump", "ssh://hidden"+path+"?host_key_check=no", openOptions{}, "no host key was found in known_hosts")
	jump.write(t, "known_hosts", both)
	jump.write(t, "config", strings.Replace(through, "ProxyJump gate", "ProxyJump gate,gate", 1))
	opens(t, "two jumps", "ssh://hidden"+path, openOptions{}, "")
	jump.write(t, "config", "Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
	opens(t, "jumps in a circle", "ssh://a"+path, openOptions{}, "more than 8 servers")

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(connectEnv, "1")
	command := "Host hidden\n ProxyCommand " + self + " %h:%p\n" + strings.TrimPrefix(base, "Host hidden\n")
	jump.write(t, "config", command)
	opens(t, "command", "ssh://hidden"+path, openOptions{}, "")
	jump.write(t, "config", strings.Replace(command, self, "/nonexistent 2>/dev/null #", 1))
	opens(t, "no command", "ssh://hidden"+path, openOptions{}, "failed to establish SSH session")
	// Names may come from an image of a stranger; the shell must not see them as its own.
	mark := filepath.Join(t.TempDir(), "mark")
	jump.write(t, "config", "Host *\n ProxyCommand echo %h %r\n")
	name := "ssh://$(id%3E" + url.PathEscape(mark) + ")@hidden" + path
	if _, err := tryOpen(t.Context(), name, openOptions{}); err == nil {
		t.Errorf("%s: opened", name)
	}
	if _, err := os.Stat(mark); err == nil {
		t.Errorf("%s: the shell has run it", name)
	}
	opens(t, "unsafe user", "ssh://$(id)@hidden"+path, openOptions{}, "cannot be part of the ProxyCommand")
	opens(t, "unsafe host", "ssh://a;id"+path, openOptions{}, "cannot be part of the ProxyCommand")
	opens(t, "host like an option", "ssh://-oX"+path, openOptions{}, "cannot be part of the ProxyCommand")
}
