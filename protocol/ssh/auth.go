package ssh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/cowl-disk/cowl/block/driver"
)

// identityFiles are the private keys that are tried if the configuration names none.
var identityFiles = []string{"~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"}

// maxKeyFile bounds what is read as a key or certificate, in bytes.
const maxKeyFile = 1 << 20

// credentials are what one connection logs in with.
type credentials struct {
	d      *dialer
	t      *target
	ctx    context.Context
	pause  func() (resume func()) // stops the clock while the server waits for us
	closer []io.Closer
}

func (c *credentials) close() {
	for _, x := range c.closer {
		_ = x.Close()
	}
}

// methods returns what to try, in order. A password that was given comes first: servers
// take few attempts only. It is for the server itself, not for those on the way.
func (c *credentials) methods(through bool) ([]ssh.AuthMethod, error) {
	keys := ssh.PublicKeysCallback(c.signers)
	if c.d.o.PasswordSecret == "" || through {
		return []ssh.AuthMethod{keys}, nil
	}
	secret, err := driver.FindObject[driver.Secret](c.d.env.Objects, c.d.o.PasswordSecret)
	if err != nil {
		return nil, err
	}
	password := string(secret)
	answer := func(_, _ string, questions []string, echo []bool) ([]string, error) {
		answers := make([]string, len(questions))
		for i := range answers {
			if echo[i] {
				return nil, errors.New("the server asks for more than a password")
			}
			answers[i] = password
		}
		return answers, nil
	}
	return []ssh.AuthMethod{ssh.Password(password), ssh.KeyboardInteractive(answer), keys}, nil
}

// signers returns the keys to try: those of the agent, then those of files.
func (c *credentials) signers() ([]ssh.Signer, error) {
	files := c.identities()
	var all []ssh.Signer
	if c.d.o.Identity == "" {
		all = c.fromAgent(files)
	}
	var failed error
	for _, name := range files {
		s, err := c.fromFile(name)
		switch {
		case err == nil:
			for _, s := range s {
				if !slices.ContainsFunc(all, func(a ssh.Signer) bool { return sameKey(a.PublicKey(), s.PublicKey()) }) {
					all = append(all, s)
				}
			}
		case errors.Is(err, driver.ErrNotExist) && c.d.o.Identity == "":
		case c.ctx.Err() != nil:
			return nil, c.ctx.Err()
		default:
			failed = err
		}
	}
	if len(all) == 0 && failed != nil {
		return nil, failed
	}
	return all, nil
}

func sameKey(a, b ssh.PublicKey) bool { return string(a.Marshal()) == string(b.Marshal()) }

// identities are the files of private keys.
func (c *credentials) identities() (files []string) {
	names := c.d.c.list(c.t.alias, "IdentityFile")
	if c.d.o.Identity != "" {
		names = []string{c.d.o.Identity}
	}
	// The library answers with OpenSSH's oldest default where there is none.
	names = slices.DeleteFunc(names, func(n string) bool { return n == "~/.ssh/identity" || n == "none" })
	if len(names) == 0 {
		names = identityFiles
	}
	for _, name := range names {
		if name = c.d.c.path(c.d.c.expand(strings.Trim(name, `"`), c.t)); name != "" && !slices.Contains(files, name) {
			files = append(files, name)
		}
	}
	return files
}

// fromAgent returns the keys of the agent, with IdentitiesOnly those whose public part
// is beside one of the files.
func (c *credentials) fromAgent(files []string) []ssh.Signer {
	socket := os.Getenv("SSH_AUTH_SOCK")
	if v := strings.Trim(c.d.c.get(c.t.alias, "IdentityAgent"), `"`); v != "" && v != "SSH_AUTH_SOCK" {
		if name, ok := strings.CutPrefix(v, "$"); ok {
			v = os.Getenv(name)
		}
		socket = c.d.c.path(c.d.c.expand(v, c.t))
	}
	if socket == "" || socket == "none" {
		return nil
	}
	var nd net.Dialer
	conn, err := nd.DialContext(c.ctx, "unix", socket)
	if err != nil {
		return nil // there is no agent: files may do
	}
	stop := context.AfterFunc(c.ctx, func() { _ = conn.Close() })
	c.closer = append(c.closer, closerFunc(func() error { stop(); return conn.Close() }))
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil
	}
	if strings.EqualFold(c.d.c.get(c.t.alias, "IdentitiesOnly"), "yes") {
		var wanted []ssh.PublicKey
		for _, name := range files {
			if k, err := publicKey(name + ".pub"); err == nil {
				wanted = append(wanted, k)
			}
		}
		signers = slices.DeleteFunc(signers, func(s ssh.Signer) bool {
			return !slices.ContainsFunc(wanted, func(k ssh.PublicKey) bool { return sameKey(k, s.PublicKey()) })
		})
	}
	return signers
}

type closerFunc func() error

func (f closerFunc) Close() error { return f() }

// readSmall reads a file that must not be large.
func readSmall(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxKeyFile))
}

func publicKey(name string) (ssh.PublicKey, error) {
	b, err := readSmall(name)
	if err != nil {
		return nil, err
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey(b)
	return k, err
}

// fromFile returns the key of a file, preceded by its certificate if there is one.
func (c *credentials) fromFile(name string) ([]ssh.Signer, error) {
	b, err := readSmall(name)
	if err != nil {
		return nil, driver.Errorf(nil, "could not read the private key: %w", err)
	}
	var signer ssh.Signer
	raw, err := ssh.ParseRawPrivateKey(b)
	var missing *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &missing):
		public := missing.PublicKey
		if public == nil {
			public, _ = publicKey(name + ".pub")
		}
		s := &encryptedKey{c: c, name: name, pem: b, public: public}
		if public == nil {
			// Only the private part tells which key it is.
			if err := s.decrypt(); err != nil {
				return nil, err
			}
			s.public = s.signer.PublicKey()
		}
		signer = s
	case err != nil:
		return nil, driver.Errorf(driver.ErrInvalid, "could not read the private key '%s': %w", name, err)
	default:
		if signer, err = ssh.NewSignerFromKey(raw); err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "the private key '%s' cannot be used: %w", name, err)
		}
	}
	all := []ssh.Signer{signer}
	for _, file := range append(c.d.c.list(c.t.alias, "CertificateFile"), name+"-cert.pub") {
		k, err := publicKey(c.d.c.path(c.d.c.expand(file, c.t)))
		if err != nil {
			continue // most keys have none
		}
		if cert, ok := k.(*ssh.Certificate); ok && sameKey(cert.Key, signer.PublicKey()) {
			if s, err := ssh.NewCertSigner(cert, signer); err == nil {
				all = append([]ssh.Signer{s}, all...)
			}
		}
	}
	return all, nil
}

// encryptedKey is a key that is decrypted when a server accepts it.
type encryptedKey struct {
	c      *credentials
	name   string
	pem    []byte
	public ssh.PublicKey

	mu     sync.Mutex
	signer ssh.Signer
}

var _ ssh.AlgorithmSigner = (*encryptedKey)(nil)

// PublicKey implements ssh.Signer.
func (k *encryptedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign implements ssh.Signer.
func (k *encryptedKey) Sign(rand io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(rand, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (k *encryptedKey) SignWithAlgorithm(rand io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if err := k.decrypt(); err != nil {
		return nil, err
	}
	if s, ok := k.signer.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(rand, data, algorithm)
	}
	return k.signer.Sign(rand, data)
}

// decrypt makes the signer. That may take its time: a user types, and much has to be computed.
func (k *encryptedKey) decrypt() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.signer != nil {
		return nil
	}
	defer k.c.pause()()
	var err error
	k.signer, err = k.c.d.decrypted(k.c, k.name, k.pem)
	return err
}

// parseEncrypted decrypts a private key.
var parseEncrypted = ssh.ParsePrivateKeyWithPassphrase

// decrypted is the signer of a key, made with the passphrase of a secret or of the user. It is
// kept for further connections of the same disk.
func (d *dialer) decrypted(c *credentials, name string, pem []byte) (ssh.Signer, error) {
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	if s, ok := d.keys[string(pem)]; ok {
		return s, nil
	}
	passphrase, err := d.passphrase(c, name)
	if err != nil {
		return nil, err
	}
	type parsed struct {
		s   ssh.Signer
		err error
	}
	done := make(chan parsed, 1)
	go func() {
		s, err := parseEncrypted(pem, passphrase)
		done <- parsed{s, err}
	}()
	select {
	case p := <-done:
		if p.err != nil {
			return nil, driver.Errorf(driver.ErrInvalid, "could not decrypt the private key '%s': %w", name, p.err)
		}
		if d.keys == nil {
			d.keys = map[string]ssh.Signer{}
		}
		d.keys[string(pem)] = p.s
		return p.s, nil
	case <-c.ctx.Done():
		return nil, c.ctx.Err()
	}
}

// passphrase returns that of a key file.
func (d *dialer) passphrase(c *credentials, name string) ([]byte, error) {
	if d.o.KeySecret != "" {
		return driver.FindObject[driver.Secret](d.env.Objects, d.o.KeySecret)
	}
	p, err := ask(c.ctx, fmt.Sprintf("Passphrase for the key '%s': ", name))
	if err != nil {
		if c.ctx.Err() != nil {
			return nil, c.ctx.Err()
		}
		return nil, driver.Errorf(driver.ErrInvalid, "the private key '%s' is encrypted: name its passphrase with key-secret (%w)", name, err)
	}
	return p, nil
}

// ask reads a line from the terminal without showing it.
func ask(ctx context.Context, question string) ([]byte, error) {
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		if !term.IsTerminal(int(os.Stdin.Fd())) {
			return nil, errors.New("there is no terminal to ask on")
		}
		tty = os.Stdin
	} else {
		defer tty.Close()
	}
	fd := int(tty.Fd())
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(os.Stderr, question)
	defer fmt.Fprintln(os.Stderr)
	type line struct {
		text []byte
		err  error
	}
	read := make(chan line, 1)
	go func() {
		p, err := term.ReadPassword(fd)
		read <- line{p, err}
	}()
	select {
	case l := <-read:
		return l.text, l.err
	case <-ctx.Done():
		_ = term.Restore(fd, state)
		return nil, ctx.Err()
	}
}
