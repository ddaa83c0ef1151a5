package ssh_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"sync/atomic"
	"testing"

	xssh "golang.org/x/crypto/ssh"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// TestEncryptedKey: a key is decrypted once for all connections of a disk, and who waits for that
// can give up.
func TestEncryptedKey(t *testing.T) {
	path, want := newFile(t, 1000)
	s := newServer(t, nil)
	private, err := os.ReadFile(s.dotSSH("id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := xssh.ParseRawPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	s.writeKey(t, "id_ed25519", *raw.(*ed25519.PrivateKey), "secret-pass")
	w, name := through(t, s, path)
	w.set(nil)
	parse := *ssh.ParseEncrypted
	defer func() { *ssh.ParseEncrypted = parse }()
	var decrypted atomic.Int32
	*ssh.ParseEncrypted = func(_, passphrase []byte) (xssh.Signer, error) {
		decrypted.Add(1)
		if string(passphrase) != "secret-pass" {
			return nil, errors.New("another passphrase")
		}
		return xssh.ParsePrivateKey(private)
	}
	o := openOptions{objects: driver.Secrets{"p": "secret-pass"}, options: opts.Dict{"key-secret": "p"}}
	n := open(t, name, o)
	w.set(func(conn int64, _ bool, _ int) error {
		if conn == 1 {
			return errReset
		}
		return nil
	})
	got := make([]byte, len(want))
	if _, err := n.ReadAt(t.Context(), got, 0); err != nil || string(got) != string(want) {
		t.Errorf("after a loss: %v", err)
	}
	if conns := w.conns.Load(); conns != 2 || decrypted.Load() != 1 {
		t.Errorf("the key was decrypted %d times for %d connections", decrypted.Load(), conns)
	}

	begun, hold := make(chan struct{}), make(chan struct{})
	defer close(hold)
	*ssh.ParseEncrypted = func(_, _ []byte) (xssh.Signer, error) {
		close(begun)
		<-hold
		return nil, errors.New("too late")
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-begun; cancel() }()
	if n, err := tryOpen(ctx, name, o); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", n, err)
	}
}
