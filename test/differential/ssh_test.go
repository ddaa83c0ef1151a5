package differential

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/sshd"
)

// asHome writes a script that runs qemu-img with another home directory, as libssh asks
// the system for it, and returns its name.
func asHome(t *testing.T, home, program string) string {
	t.Helper()
	testkit.Root(t)
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	script := fmt.Sprintf("#!/bin/sh\nexec unshare -m sh -c 'mount --bind %s %s && exec %s \"$@\"' sh \"$@\"\n", home, u.HomeDir, program)
	path := filepath.Join(t.TempDir(), "qemu-img")
	if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(path, "--version").CombinedOutput(); err != nil {
		t.Skipf("no mount namespace for another home directory: %s", out)
	}
	return path
}

// TestSSH compares what both programs say of files of an SSH server, and what they copy.
func TestSSH(t *testing.T) {
	tools := needCLI(t)
	if out, err := exec.Command(tools.img, "info", "ssh://127.0.0.1:1/x").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no ssh driver (qemu-block-extra)")
	}
	s := sshd.Start(t, "")
	t.Setenv("HOME", s.Home)
	t.Setenv("SSH_AUTH_SOCK", "")
	img := asHome(t, s.Home, tools.img)
	dir := t.TempDir()
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", filepath.Join(dir, "s.qcow2"), "8M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -z 4M 1M", filepath.Join(dir, "s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "s.raw"))
	for _, name := range []string{"a b", "odd"} {
		testkit.Run(t, "cp", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, name))
	}
	if err := os.WriteFile(filepath.Join(dir, "odd"), make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	blob, err := base64.StdEncoding.DecodeString(strings.Fields(testkit.Run(t, "cat", s.Key("ed25519")+".pub"))[1])
	if err != nil {
		t.Fatal(err)
	}
	url := func(name string) string { return s.URL(dir + "/" + name) }
	options := fmt.Sprintf("driver=qcow2,file.driver=ssh,file.server.host=127.0.0.1,file.server.port=%d,file.path=%s/s.qcow2", s.Port, dir)
	old := fmt.Sprintf("driver=qcow2,file.driver=ssh,file.host=127.0.0.1,file.port=%d,file.path=%s/s.qcow2", s.Port, dir)
	hash := map[string]string{"md5": fmt.Sprintf("%x", md5.Sum(blob)), "sha1": fmt.Sprintf("%x", sha1.Sum(blob)), "sha256": fmt.Sprintf("%x", sha256.Sum256(blob))}
	const (
		same  = iota
		fails // both, in other words
		better
	)
	type line struct {
		args []string
		want int
		why  string
	}
	lines := []line{
		{args: []string{"info", url("s.qcow2")}},
		{args: []string{"info", "--output=json", url("s.qcow2")}},
		{args: []string{"info", url("s.raw")}},
		{args: []string{"info", "-f", "raw", url("odd")}},
		{args: []string{"info", url("a%20b")}},
		{args: []string{"info", strings.Replace(url("s.qcow2"), "://", "://"+"root@", 1)}},
		{args: []string{"info", url("s.qcow2") + "?host_key_check=no"}},
		{args: []string{"info", url("s.qcow2") + "?host_key_check=yes"}},
		{args: []string{"info", url("s.qcow2") + "?foo=1"}},
		{args: []string{"map", url("s.qcow2")}},
		{args: []string{"map", "--output=json", url("s.qcow2")}},
		{args: []string{"map", "--output=json", "-f", "raw", url("s.raw")}},
		{args: []string{"check", url("s.qcow2")}},
		{args: []string{"measure", "-O", "qcow2", url("s.qcow2")}},
		{args: []string{"measure", "-O", "qcow2", "-f", "raw", url("s.raw")}},
		{args: []string{"compare", url("s.qcow2"), "s.raw"}},
		{args: []string{"compare", url("s.qcow2"), url("s.raw")}},
		{args: []string{"info", "--image-opts", options}},
		{args: []string{"info", "--image-opts", old}},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=none"}},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=known_hosts"}},
		{args: []string{"info", "--image-opts", options + ",file.host_key_check=no"}},
		{args: []string{"info", url("none")}},
		{args: []string{"info", "ssh://127.0.0.1:1/x"}},
		{args: []string{"info", "ssh://nohost.invalid/x"}},
		{args: []string{"info", url("s.qcow2") + "?host_key_check=blah"}},
		{args: []string{"info", fmt.Sprintf("ssh://127.0.0.1:%d", s.Port)}},
		{args: []string{"info", "ssh:///x"}},
		{args: []string{"info", "--image-opts", "driver=ssh,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=ssh,host=127.0.0.1"}},
		{args: []string{"info", "--image-opts", "driver=ssh,host=127.0.0.1,port=x,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=ssh,server.host=127.0.0.1,path=/x"}, want: fails, why: "QEMU wants a port"},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=x"}},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=hash"}},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=hash,file.host-key-check.type=md4,file.host-key-check.hash=00"}},
		{args: []string{"info", "--image-opts", options + ",file.foo=1"}},
		{args: []string{"info", "--image-opts", options + ",file.server.foo=1"}},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.foo=1"}, want: fails, why: "QEMU misses the mode first"},
		{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=none,file.host-key-check.type=md5"}},
		{args: []string{"info", "--image-opts", "driver=ssh,server.host=127.0.0.1,server.port=x,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=ssh,host=127.0.0.1,server.host=127.0.0.1,server.port=1,path=/x"}, want: fails, why: "QEMU mixes the two spellings"},
		{args: []string{"info", "--image-opts", "driver=ssh,port=1,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=ssh,host=127.0.0.1,port=0,path=/foo"}},
		{args: []string{"info", `json:{"driver": "ssh", "host": "localhost", "port": 0.42, "path": "/foo"}`}},
		{args: []string{"info", strings.Replace(url("s.qcow2"), "://", "://nobody@", 1)}},
		{args: []string{"info", url("")}, want: fails, why: "a directory"},
		{args: []string{"create", "-f", "raw", url("none/new"), "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=full", url("new"), "1M"}, want: fails, why: "words of the option"},
	}
	for kind, h := range hash {
		lines = append(lines, line{args: []string{"info", url("s.qcow2") + "?host_key_check=" + kind + ":" + h}},
			line{args: []string{"info", url("s.qcow2") + "?host_key_check=" + kind + ":00" + h}},
			line{args: []string{"info", "--image-opts", options + ",file.host-key-check.mode=hash,file.host-key-check.type=" + kind + ",file.host-key-check.hash=" + h}})
	}
	both := func(l line) {
		t.Helper()
		theirs, ours := runIn(t, dir, img, l.args...), runIn(t, dir, tools.ours, l.args...)
		switch {
		case l.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v:\n%+v\nwant\n%+v", l.args, ours, theirs)
		case l.want == fails && (theirs.code == 0 || ours.code != theirs.code || ours.stderr == ""):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		case l.want == better && (theirs.code == 0 || ours.code != 0):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		}
	}
	for i, l := range lines {
		if testkit.Sample(i, 3) {
			both(l)
		}
	}
	known := filepath.Join(s.Home, ".ssh", "known_hosts")
	right, err := os.ReadFile(known)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"otherhost ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGzWJeZ4hhmvPEfvQE6FnMlOcFEbmDGcS0ygD2hBdEPD\n",
		fmt.Sprintf("[127.0.0.1]:%d ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGzWJeZ4hhmvPEfvQE6FnMlOcFEbmDGcS0ygD2hBdEPD\n", s.Port)} {
		if err := os.WriteFile(known, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		both(line{args: []string{"info", url("s.qcow2")}})
	}
	if err := os.WriteFile(known, right, 0o600); err != nil {
		t.Fatal(err)
	}

	// What each writes, the other reads.
	want := testkit.Run(t, "cat", filepath.Join(dir, "s.raw"))
	for i, c := range []struct {
		write, read string
		args        []string
	}{
		{tools.ours, img, []string{"convert", "-f", "qcow2", "-O", "raw"}},
		{img, tools.ours, []string{"convert", "-f", "qcow2", "-O", "raw"}},
		{tools.ours, img, []string{"convert", "-f", "qcow2", "-O", "qcow2"}},
		{img, tools.ours, []string{"convert", "-f", "qcow2", "-O", "qcow2", "-c"}},
	} {
		if i > 1 && !testkit.Long() {
			break
		}
		name := url(fmt.Sprintf("out%d", i))
		if o := runIn(t, dir, c.write, append(c.args, "s.qcow2", name)...); o.code != 0 || o.stderr != "" {
			t.Errorf("%s %v: %+v", c.write, c.args, o)
		}
		back := filepath.Join(t.TempDir(), "back")
		if o := runIn(t, dir, c.read, "convert", "-f", c.args[4], "-O", "raw", name, back); o.code != 0 {
			t.Errorf("%s: %+v", c.read, o)
		}
		if got := testkit.Run(t, "cat", back); got != want {
			t.Errorf("%s %v: another disk", c.write, c.args)
		}
		both(line{args: []string{"info", "-f", c.args[4], name}})
	}
	for _, args := range [][]string{
		{"create", "-q", "-f", "raw", url("new.raw"), "1000"},
		{"create", "-q", "-f", "qcow2", url("new.qcow2"), "3M"},
		{"resize", "-q", "-f", "raw", url("new.raw"), "+1M"},
		{"resize", "-q", "-f", "qcow2", url("new.qcow2"), "+1M"},
		{"snapshot", "-c", "a", url("new.qcow2")},
		{"convert", "-n", "-f", "qcow2", "-O", "raw", "s.qcow2", url("out0")},
	} {
		if o := runIn(t, dir, tools.ours, args...); o.code != 0 || o.stderr != "" {
			t.Errorf("%v: %+v", args, o)
		}
		if !testkit.Long() {
			continue
		}
		both(line{args: []string{"info", args[len(args)-1-map[bool]int{true: 1}[args[0] == "create" || args[0] == "resize"]]}})
	}
	if got := testkit.Run(t, "cat", filepath.Join(dir, "out0")); got != want {
		t.Error("convert -n: another disk")
	}
}
