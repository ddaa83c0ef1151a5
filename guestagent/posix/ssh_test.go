//go:build unix

package posix

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

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
	s, ctx := SSH{root}, context.Background()
	file := filepath.Join(root, "home/u/.ssh/authorized_keys")
	check := func(step string, err error, want string) {
		t.Helper()
		data, rerr := os.ReadFile(file)
		if err != nil || rerr != nil || string(data) != want {
			t.Errorf("%s: %v, %v, %q, want %q", step, err, rerr, data, want)
		}
	}
	_, err := s.add(ctx, sshAddArgs{User: "u", Keys: []string{"a", "b", "a", ""}})
	check("add", err, "a\nb\n")
	_, err = s.add(ctx, sshAddArgs{User: "u", Keys: []string{"c", "b"}})
	check("add more", err, "a\nb\nc\n")
	keys, err := s.get(ctx, sshUserArgs{"u"})
	if err != nil || fmt.Sprint(keys.Keys) != "[a b c]" {
		t.Errorf("%v %v", keys, err)
	}
	_, err = s.remove(ctx, sshRemoveArgs{User: "u", Keys: []string{"b"}})
	check("remove", err, "a\nc\n")
	reset := true
	_, err = s.add(ctx, sshAddArgs{User: "u", Keys: []string{"d"}, Reset: &reset})
	check("reset", err, "d\n")
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
	if _, err := s.get(ctx, sshUserArgs{"u"}); err == nil {
		t.Error("a link was read")
	}
	if _, err := s.add(ctx, sshAddArgs{User: "u", Keys: []string{"k"}}); err == nil {
		t.Error("a link was read for adding to it")
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
	s, ctx := SSH{root}, context.Background()
	if _, err := s.add(ctx, sshAddArgs{User: "far", Keys: []string{"k"}}); err != nil {
		t.Error(err)
	}
	if data, err := os.ReadFile(filepath.Join(root, "home/far/.ssh/authorized_keys")); string(data) != "k\n" {
		t.Errorf("%q %v", data, err)
	}
	if _, err := s.get(ctx, sshUserArgs{"nobody"}); err == nil || !strings.Contains(err.Error(), "failed to lookup user 'nobody': no such user") {
		t.Error(err)
	}
}

// TestHookLimit kills a hook that hangs, and its children: they hold a pipe open.
func TestHookLimit(t *testing.T) {
	dir := t.TempDir()
	hook, pipe := filepath.Join(dir, "hook"), filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hook, []byte("#!/bin/sh\nsleep 1000 >"+pipe+" &\nwait\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() {
		err := Hook(hook, 200*time.Millisecond)(context.Background(), "freeze")
		if err == nil {
			err = errors.New("a hook that was killed is taken for one that did its work")
		} else {
			err = nil
		}
		done <- err
	}()
	go func() {
		// Opening waits for the child, reading for its end.
		_, err := os.ReadFile(pipe)
		done <- err
	}()
	for range 2 {
		select {
		case err := <-done:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(time.Minute):
			t.Fatal("the hook or its child still runs")
		}
	}
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
