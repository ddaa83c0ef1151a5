package ssh_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/ssh"
)

// usesKept makes a file and opens it, with the same connections kept, and says whether one
// login did for both.
func usesKept(t *testing.T, w *wire, create, open string, options opts.Dict, before, after driver.Objects, between func()) bool {
	t.Helper()
	c := &driver.Connections{}
	defer c.Close()
	first := w.conns.Load()
	err := ssh.New().(driver.Creator).Create(t.Context(), &driver.CreateRequest{Filename: create, Size: 4096, Env: &driver.Env{Objects: before, Connections: c}})
	if err != nil {
		t.Fatal(err)
	}
	between()
	d := ssh.New()
	given, err := d.(driver.FilenameParser).ParseFilename(open)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range options {
		given[k] = v
	}
	n, err := d.Open(t.Context(), &driver.OpenRequest{Options: given, Env: &driver.Env{Objects: after, Warn: func(string) {}, Connections: c}})
	if err != nil {
		t.Fatal(err)
	}
	if n.Size() != 4096 {
		t.Errorf("the file has %d bytes", n.Size())
	}
	if err := n.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return w.conns.Load()-first == 1
}

// TestKept: what is made and then opened takes one login, unless anything that the login
// depends on is another, or the connection is lost.
func TestKept(t *testing.T) {
	s := newServer(t, nil)
	path := filepath.Join(t.TempDir(), "disk")
	w, name := through(t, s, path)
	key, _ := newKey(t)
	s.writeKey(t, "unused", key, "")
	private, err := os.ReadFile(s.dotSSH("id_ed25519"))
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "copy", string(private))
	const config = "Host *\n HostKeyAlias kept\n"
	s.write(t, "config", config)
	s.write(t, "known_hosts", knownhosts.Line([]string{"kept"}, s.host.PublicKey())+"\n")
	password := func(p string) driver.Objects { return driver.Secrets{"p": p} }
	with := name + "&password-secret=p"
	same := func() {}
	for _, c := range []struct {
		what          string
		create, open  string
		options       opts.Dict
		before, after driver.Objects
		between       func()
		want          bool
	}{
		{"the same", name, name, nil, nil, nil, same, true},
		{"more connections", name, name + "&connections=2", nil, nil, nil, same, true},
		{"another user", name, name, opts.Dict{"user": "joe"}, nil, nil, same, false},
		{"another key", name, name + "&identity=" + s.dotSSH("copy"), nil, nil, nil, same, false},
		{"another time-out", name, name + "&timeout=7", nil, nil, nil, same, false},
		{"the same password", with, with, nil, password("one"), password("one"), same, true},
		{"another password", with, with, nil, password("one"), password("two"), same, false},
		{"a stricter check", name, strings.Replace(name, "=no", "=yes", 1), nil, nil, nil, same, false},
		{"another configuration", name, name, nil, nil, nil, func() { s.write(t, "config", config+" Compression no\n") }, false},
		{"lost", name, name, nil, nil, nil, func() {
			last := w.conns.Load()
			w.set(func(conn int64, _ bool, _ int) error {
				if conn == last {
					return errReset
				}
				return nil
			})
		}, false},
	} {
		if got := usesKept(t, w, c.create, c.open, c.options, c.before, c.after, c.between); got != c.want {
			t.Errorf("%s: one login: %v", c.what, got)
		}
		w.set(nil)
	}
}

// TestOneLogin: making an image, filling it and the like take one login, and nothing is left
// of it at the end.
func TestOneLogin(t *testing.T) {
	s := newServer(t, nil)
	dir := t.TempDir()
	w, name := through(t, s, "")
	at := func(base string) string {
		return strings.Replace(name, "?", filepath.Join(dir, base)+"?", 1) + "&connections=1"
	}
	source, _ := newFile(t, 1<<20)
	reg := block.NewRegistry(raw.New(), qcow2.New(), file.New(), ssh.New())
	copyTo := func(format string) func() error {
		return func() error {
			_, err := ops.Copy(t.Context(), ops.CopyJob{Registry: reg, Files: []block.Source{{Filename: source, Format: "raw"}}, Open: block.OpenOptions{Gate: driver.DenyAll},
				New: &ops.CreateJob{Registry: reg, Filename: at(format), Format: format}})
			return err
		}
	}
	backing, format := at("qcow2"), "qcow2"
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"copying, raw", copyTo("raw")},
		{"copying, qcow2", copyTo("qcow2")},
		{"creating", func() error {
			return ops.Create(t.Context(), ops.CreateJob{Registry: reg, Filename: at("new"), Format: "qcow2", Size: 1 << 20})
		}},
		{"creating over a backing file", func() error {
			return ops.Create(t.Context(), ops.CreateJob{Registry: reg, Filename: at("overlay"), Format: "qcow2", Backing: &backing, BackingFormat: &format, Gate: driver.AllowAll})
		}},
	} {
		before := w.conns.Load()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if n := w.conns.Load() - before; n != 1 {
			t.Errorf("%s: %d logins", c.what, n)
		}
		for w.open.Load() > 0 { // until the end of the test, if a connection stays
			time.Sleep(time.Millisecond)
		}
	}
}
