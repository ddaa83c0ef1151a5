//go:build unix

package posix

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/guestagent"
)

// asker sends requests to an agent with the commands for keys below root, and returns
// what is in the reply.
func asker(t *testing.T, root string) func(command, args string) string {
	agent := guestagent.NewAgent(guestagent.Config{Commands: SSH{root}.Commands()})
	return func(command, args string) string {
		t.Helper()
		var out bytes.Buffer
		request := fmt.Sprintf(`{"execute": "guest-ssh-%s-authorized-keys", "arguments": {%s}}`, command, args)
		if err := agent.NewSession(t.Context(), &out).Feed([]byte(request)); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(out.String())
	}
}

// TestSSH changes the keys of a user of a test tree.
func TestSSH(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "home/u"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	passwd := fmt.Sprintf("root:x:0:0::/root:/bin/sh\nu:x:%d:%d::/home/u:/bin/sh\n", os.Getuid(), os.Getgid())
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte(passwd), 0o644); err != nil {
		t.Fatal(err)
	}
	ask := asker(t, root)
	file := filepath.Join(root, "home/u/.ssh/authorized_keys")
	check := func(command, args, want string) {
		t.Helper()
		reply := ask(command, args)
		data, err := os.ReadFile(file)
		if reply != `{"return": {}}` || err != nil || string(data) != want {
			t.Errorf("%s %s: %s, %v, %q, want %q", command, args, reply, err, data, want)
		}
	}
	check("add", `"username": "u", "keys": ["a", "b", "a", ""]`, "a\nb\n")
	check("add", `"username": "u", "keys": ["c", "b"]`, "a\nb\nc\n")
	if reply := ask("get", `"username": "u"`); reply != `{"return": {"keys": ["a", "b", "c"]}}` {
		t.Error(reply)
	}
	check("remove", `"username": "u", "keys": ["b"]`, "a\nc\n")
	check("add", `"username": "u", "keys": ["d"], "reset": true`, "d\n")
	for _, key := range []string{"# k", `k\nl`} {
		if reply := ask("add", `"username": "u", "keys": ["`+key+`"]`); !strings.Contains(reply, "invalid OpenSSH public key") {
			t.Errorf("%s: %s", key, reply)
		}
	}
	// The file as a link to something else.
	other := filepath.Join(root, "other")
	if err := os.WriteFile(other, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(other, file); err != nil {
		t.Fatal(err)
	}
	if reply := ask("get", `"username": "u"`); !strings.Contains(reply, "error") {
		t.Errorf("a link was read: %s", reply)
	}
	if reply := ask("add", `"username": "u", "keys": ["k"]`); !strings.Contains(reply, "error") {
		t.Errorf("a link was read for adding to it: %s", reply)
	}
	if data, err := os.ReadFile(other); err != nil || string(data) != "secret\n" {
		t.Errorf("%q %v", data, err)
	}
}

// TestSSHDirectory finds a user that is not in the password file by getent.
func TestSSHDirectory(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"etc/passwd":     "root:x:0:0::/root:/bin/sh\n",
		"home/far/x":     "",
		"usr/bin/getent": fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'passwd -- far' ] && echo 'far:*:%d:%d::/home/far:/bin/sh'\n", os.Getuid(), os.Getgid()),
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	ask := asker(t, root)
	if reply := ask("add", `"username": "far", "keys": ["k"]`); reply != `{"return": {}}` {
		t.Error(reply)
	}
	if data, err := os.ReadFile(filepath.Join(root, "home/far/.ssh/authorized_keys")); string(data) != "k\n" {
		t.Errorf("%q %v", data, err)
	}
	if reply := ask("get", `"username": "nobody"`); !strings.Contains(reply, "failed to lookup user 'nobody': no such user") {
		t.Error(reply)
	}
}

// TestHookLimit kills a hook that hangs, and its children: they hold a pipe open.
func TestHookLimit(t *testing.T) {
	// Where there is much else to do, the child may take longer than that to open the pipe.
	limit := 200 * time.Millisecond
	for !hookEnds(t, limit) {
		limit *= 2
	}
}

// hookEnds tells whether a hook came to start its child, and fails the test if one
// of them outlives the limit.
func hookEnds(t *testing.T, limit time.Duration) (started bool) {
	dir := t.TempDir()
	hook, pipe := filepath.Join(dir, "hook"), filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nsleep 1000 >"+pipe+" &\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	hooked, read := make(chan error, 1), make(chan error, 1)
	var opened atomic.Bool
	go func() { hooked <- Hook(hook, limit)(context.Background(), "freeze") }()
	go func() {
		// Opening waits for the child, reading for its end.
		f, err := os.Open(pipe)
		opened.Store(true)
		if err == nil {
			_, err = io.Copy(io.Discard, f)
			f.Close()
		}
		read <- err
	}()
	wait := func(c chan error, what string) (err error) {
		select {
		case err = <-c:
		case <-time.After(time.Minute):
			t.Fatal(what + " still runs")
		}
		return err
	}
	if err := wait(hooked, "the hook"); err == nil {
		t.Error("a hook that was killed is taken for one that did its work")
	}
	if started = opened.Load(); !started {
		// Nobody opens the pipe any more: its reader is let go.
		if f, err := os.OpenFile(pipe, os.O_RDWR, 0); err == nil {
			defer f.Close()
		}
		return started
	}
	if err := wait(read, "the child"); err != nil {
		t.Error(err)
	}
	return started
}

// TestTimezone reads rules that no file has.
func TestTimezone(t *testing.T) {
	for tz, want := range map[string]string{"UTC0": "UTC 0", "CET-1CEST,M3.5.0,M10.5.0/3": "CEST 7200", "XYZ5": "XYZ -18000", "": "UTC 0"} {
		t.Setenv("TZ", tz)
		z := ReadTimezone("/", time.Date(2026, 7, 1, 0, 0, 0, 0, time.UTC))
		if got := fmt.Sprintf("%s %d", *z.Zone, z.Offset); got != want {
			t.Errorf("TZ=%s: %s, want %s", tz, got, want)
		}
	}
}
