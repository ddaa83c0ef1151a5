//go:build unix

package script

import (
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// cowlIn runs the program in a directory.
func cowlIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Args[0], cmd.Dir = "cowl", dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("cowl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// killed runs a command and kills it after a while. It says whether the command
// was done by then.
func killed(t *testing.T, dir string, after time.Duration, args ...string) bool {
	t.Helper()
	cmd := exec.Command(os.Args[0], args...)
	cmd.Args[0], cmd.Dir = "cowl", dir
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(after, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	return cmd.Wait() == nil
}

// pattern is a raw disk of which every third part of 16 KiB holds data.
func pattern(t *testing.T, name string, seed byte) {
	t.Helper()
	p := make([]byte, 24<<20)
	for i := range p {
		if part := i >> 14; part%3 == int(seed%3) {
			p[i] = byte(part) ^ seed | 1
		}
	}
	if err := os.WriteFile(name, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestKilled kills commands that change chains at random moments. What the image
// shows is the same afterwards, and the command can be given again.
func TestKilled(t *testing.T) {
	cases := []struct {
		name   string
		create []string // options of the overlay
		args   []string
	}{
		{"commit", nil, []string{"commit", "top.qcow2"}},
		{"commit subclusters", []string{"-o", "extended_l2=on"}, []string{"commit", "-t", "writethrough", "top.qcow2"}},
		{"rebase", []string{"-o", "cluster_size=4k"}, []string{"rebase", "-b", "other.raw", "-F", "raw", "top.qcow2"}},
		{"rebase compressed", nil, []string{"rebase", "-c", "-b", "other.raw", "-F", "raw", "top.qcow2"}},
		{"rebase to none", []string{"-o", "compat=0.10"}, []string{"rebase", "-b", "", "top.qcow2"}},
		{"refcount bits", []string{"-o", "cluster_size=512"}, []string{"amend", "-o", "refcount_bits=64", "top.qcow2"}},
		{"compat", []string{"-o", "cluster_size=4k"}, []string{"amend", "-o", "compat=0.10", "top.qcow2"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			pattern(t, filepath.Join(dir, "base.raw"), 0)
			pattern(t, filepath.Join(dir, "other.raw"), 1)
			pattern(t, filepath.Join(dir, "over.raw"), 2)
			create := append([]string{"create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw"}, c.create...)
			cowlIn(t, dir, append(create, "top.qcow2")...)
			// The overlay takes up what differs from another base, and then rests
			// on the first one again.
			cowlIn(t, dir, "rebase", "-b", "over.raw", "-F", "raw", "top.qcow2")
			cowlIn(t, dir, "rebase", "-u", "-b", "base.raw", "-F", "raw", "top.qcow2")
			cowlIn(t, dir, "convert", "-O", "raw", "top.qcow2", "want.raw")
			before := map[string][]byte{}
			for _, name := range []string{"top.qcow2", "base.raw"} {
				b, err := os.ReadFile(filepath.Join(dir, name))
				if err != nil {
					t.Fatal(err)
				}
				before[name] = b
			}
			r := rand.New(rand.NewPCG(1, 2))
			longest := time.Minute
			for round := range 15 {
				started := time.Now()
				wait := longest
				if round > 0 {
					wait = time.Duration(r.Int64N(int64(longest)))
				}
				done := killed(t, dir, wait, c.args...)
				if round == 0 {
					if !done {
						t.Fatal("the command fails")
					}
					longest = time.Since(started)
				}
				cowlIn(t, dir, "compare", "top.qcow2", "want.raw")
				if !done && round%3 != 0 {
					continue // go on with what the kill left
				}
				for name, b := range before {
					if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			cowlIn(t, dir, c.args...)
			cowlIn(t, dir, "compare", "top.qcow2", "want.raw")
			cowlIn(t, dir, "check", "-r", "leaks", "top.qcow2")
		})
	}
}
