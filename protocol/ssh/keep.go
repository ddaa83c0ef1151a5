package ssh

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"os"

	"golang.org/x/crypto/ssh"
)

// identity tells apart connections that are not as good as each other: it is made of all that
// decides where they go, how the server is recognised, and with what the user logs in.
type identity [sha256.Size]byte

// identity is that of the connections of d; false if a secret is missing.
func (d *dialer) identity() (id identity, ok bool) {
	o := *d.o
	o.Path, o.Connections, o.Unknown = "", 0, ""
	of := struct {
		Options                 openOptions
		Alias, Host, Port, User string
		Home, Agent             string
		Config                  []string
		Password, KeyPassphrase []byte
	}{Options: o, Alias: d.t.alias, Host: d.t.host, Port: d.t.port, User: d.t.user, Home: d.c.home, Agent: os.Getenv("SSH_AUTH_SOCK"), Config: d.c.texts}
	for _, secret := range []struct {
		id   string
		data *[]byte
	}{{o.PasswordSecret, &of.Password}, {o.KeySecret, &of.KeyPassphrase}} {
		if secret.id == "" {
			continue
		}
		data, err := d.env.Secret(secret.id)
		if err != nil {
			return id, false
		}
		*secret.data = data
	}
	b, err := json.Marshal(of)
	return sha256.Sum256(b), err == nil
}

// kept is a connection without a file that nobody uses, for driver.Connections, with the
// keys that were decrypted for it.
type kept struct {
	s    *session
	keys map[string]ssh.Signer
}

// Close implements io.Closer.
func (k *kept) Close() error {
	k.s.fail(errClosed)
	return nil
}

// keep closes the file of a session and keeps the connection for the next request.
func (d *dialer) keep(ctx context.Context, s *session) error {
	err := s.closeFile(ctx)
	id, ok := d.identity()
	if !ok || err != nil || s.reason() != nil {
		s.fail(errClosed)
		return err
	}
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	d.env.Connections.Keep(id, &kept{s, d.keys})
	return nil
}

// take returns a connection that an earlier request has left, which may be lost, or nil.
func (d *dialer) take() *session {
	id, ok := d.identity()
	if !ok {
		return nil
	}
	k, _ := d.env.Connections.Take(id).(*kept)
	if k == nil {
		return nil
	}
	d.keyMu.Lock()
	defer d.keyMu.Unlock()
	d.keys = k.keys
	return k.s
}

// session returns a connection that an earlier request has left, if it works, or a new one.
func (d *dialer) session(ctx context.Context) (*session, error) {
	s := d.take()
	if s == nil {
		return d.newSession(ctx)
	}
	err := s.do(ctx, true, func() error {
		_, _, err := s.link.client.SendRequest(keepAlive, true, nil)
		return err
	})
	if err == nil {
		return s, nil
	}
	s.fail(errClosed)
	return d.newSession(ctx)
}
