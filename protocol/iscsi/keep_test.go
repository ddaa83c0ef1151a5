package iscsi_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/iscsid"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/iscsi"
)

// TestOneLogin: making an image, filling it and the like take one login, whatever the cache mode.
func TestOneLogin(t *testing.T) {
	u := iscsid.NewUnit(16<<20, 512)
	u.Cached = true
	s := iscsid.Start(t, iscsid.Config{}, map[uint32]*iscsid.Unit{1: u})
	want := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(1), want)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, want, 0o644); err != nil {
		t.Fatal(err)
	}
	reg := block.NewRegistry(raw.New(), qcow2.New(), file.New(), iscsi.New())
	copyTo := func(format string, cache driver.Cache) func() error {
		return func() error {
			_, err := ops.Copy(testkit.Guard(t), ops.CopyJob{Registry: reg, Files: []block.Source{{Filename: source, Format: "raw"}}, Open: block.OpenOptions{Gate: driver.DenyAll},
				NewCache: cache, New: &ops.CreateJob{Registry: reg, Filename: urlOf(s), Format: format}})
			return err
		}
	}
	for _, c := range []struct {
		what string
		do   func() error
	}{
		{"copying, qcow2", copyTo("qcow2", driver.Cache{NoFlush: true})},
		{"copying, raw", copyTo("raw", driver.Cache{NoFlush: true})},
		{"copying with flushes, qcow2", copyTo("qcow2", driver.Cache{})},
		{"creating", func() error {
			return ops.Create(testkit.Guard(t), ops.CreateJob{Registry: reg, Filename: urlOf(s), Format: "qcow2", Size: 1 << 20})
		}},
		{"creating with preallocation", func() error {
			return ops.Create(testkit.Guard(t), ops.CreateJob{Registry: reg, Filename: urlOf(s), Format: "qcow2", Size: 1 << 20, Options: opts.Dict{"preallocation": "metadata"}})
		}},
		{"copying, raw again", copyTo("raw", driver.Cache{})},
	} {
		before := s.Logins.Load()
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		if n := s.Logins.Load() - before; n != 1 {
			t.Errorf("%s: %d logins", c.what, n)
		}
	}
	if !bytes.Equal(u.Bytes()[:len(want)], want) {
		t.Error("other data was written")
	}
}

// TestKept: a session is used again where all that the login depends on is the same, and the session works.
func TestKept(t *testing.T) {
	stalled := make(chan context.CancelFunc, 1) // for the next command, which is never answered
	units := map[uint32]*iscsid.Unit{1: iscsid.NewUnit(1<<20, 512), 2: iscsid.NewUnit(2<<20, 512)}
	s := iscsid.Start(t, iscsid.Config{Intercept: func(uint32, []byte) iscsid.Action {
		select {
		case cancel := <-stalled:
			cancel()
			return iscsid.Action{Do: iscsid.Forget}
		default:
			return iscsid.Action{}
		}
	}}, units)
	nothing := func(driver.Node) {}
	for _, c := range []struct {
		what    string
		name    string
		options opts.Dict
		between func(n driver.Node)
		want    bool
	}{
		{"the same", urlOf(s), nil, nothing, true},
		{"another unit", strings.TrimSuffix(urlOf(s), "1") + "2", nil, nothing, true},
		{"another user", urlOf(s), opts.Dict{"user": "joe", "password": "x"}, nothing, false},
		{"another initiator", urlOf(s), opts.Dict{"initiator-name": "iqn.other"}, nothing, false},
		{"another time-out", urlOf(s), opts.Dict{"timeout": "7"}, nothing, false},
		{"checksums", urlOf(s), opts.Dict{"header-digest": "crc32c-none"}, nothing, false},
		{"a command that was given up", urlOf(s), nil, func(n driver.Node) {
			ctx, cancel := context.WithCancel(testkit.Guard(t))
			stalled <- cancel
			_, _ = n.(driver.Storage).WriteAt(ctx, make([]byte, 512), 0)
		}, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			connections := &driver.Connections{}
			defer connections.Close()
			env := &driver.Env{Warn: func(string) {}, Connections: connections}
			open := func(name string, more opts.Dict) driver.Node {
				o, err := iscsi.New().(driver.FilenameParser).ParseFilename(name)
				if err != nil {
					t.Fatal(err)
				}
				for k, v := range more {
					o[k] = v
				}
				n, err := iscsi.New().Open(testkit.Guard(t), &driver.OpenRequest{Options: o, Access: driver.Access{Write: true}, Env: env})
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := s.Logins.Load()
			n := open(urlOf(s), nil)
			c.between(n)
			if err := n.Close(testkit.Guard(t)); err != nil {
				t.Error(err)
			}
			n = open(c.name, c.options)
			if want := int64(1+strings.Count(c.name[len(c.name)-1:], "2")) << 20; n.Size() != want {
				t.Errorf("%d bytes", n.Size())
			}
			if err := n.Close(testkit.Guard(t)); err != nil {
				t.Error(err)
			}
			if got := s.Logins.Load()-before == 1; got != c.want {
				t.Errorf("one login: %v", got)
			}
		})
	}
}

// TestKeptLost: a session whose connection ends while nobody uses it does no harm.
func TestKeptLost(t *testing.T) {
	s := iscsid.Start(t, iscsid.Config{}, map[uint32]*iscsid.Unit{1: iscsid.NewUnit(1<<20, 512)})
	connections := &driver.Connections{}
	defer connections.Close()
	for range 2 {
		err := iscsi.New().(driver.Creator).Create(testkit.Guard(t), &driver.CreateRequest{Filename: urlOf(s), Env: &driver.Env{Connections: connections}})
		if err != nil {
			t.Error(err)
		}
		s.CutAll()
	}
	if n := s.Logins.Load(); n != 2 {
		t.Errorf("%d logins", n)
	}
}
