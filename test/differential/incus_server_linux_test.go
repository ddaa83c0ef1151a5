package differential

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// incusServer is a server of Incus that runs for the time of a test.
type incusServer struct {
	t *testing.T
	http.Client
}

// startIncus starts a server of Incus, $COWL_INCUSD or the one that is installed, in a
// folder and with mounts of its own.
func startIncus(t *testing.T) *incusServer {
	t.Helper()
	testkit.Root(t)
	daemon := os.Getenv("COWL_INCUSD")
	if daemon == "" {
		daemon = "/usr/libexec/incus/incusd"
	}
	if _, err := os.Stat(daemon); err != nil {
		t.Skip("incusd is not installed (Debian's package incus-base), and $COWL_INCUSD does not name it")
	}
	home, err := os.MkdirTemp("", "incusd") // short, as paths of sockets must be
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("INCUS_DIR", home)
	// With numbers for users of its own, containers need not be privileged.
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null
echo root:1000000:1000000000 >"$INCUS_DIR/ids"
for f in /etc/subuid /etc/subgid; do mount --bind "$INCUS_DIR/ids" $f; done
exec "$0" --logfile "$INCUS_DIR/log"`, daemon)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		os.RemoveAll(home)
	})
	dial := func() (net.Conn, error) { return net.Dial("unix", filepath.Join(home, "unix.socket")) }
	for end := time.Now().Add(time.Minute); ; {
		if c, err := dial(); err == nil {
			c.Close()
			break
		}
		select {
		case <-ended:
			t.Skip("incusd does not run here")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("incusd does not listen")
		}
	}
	return &incusServer{t, http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return dial() }}}}
}

// call makes a request, waits for the operation that it starts, and returns the metadata.
func (s *incusServer) call(method, path string, body any) json.RawMessage {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequest(method, "http://incus"+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	answer, err := s.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	var r struct {
		Type, Operation, Error string
		Metadata               json.RawMessage
	}
	if answer.Header.Get("Content-Type") != "application/json" {
		return content
	}
	if err := json.Unmarshal(content, &r); err != nil {
		s.t.Fatalf("%s %s: %v: %.500s", method, path, err, content)
	}
	if r.Type == "error" {
		s.t.Fatalf("%s %s: %s", method, path, r.Error)
	}
	if r.Type != "async" {
		return r.Metadata
	}
	var operation struct {
		Err      string
		Metadata json.RawMessage
	}
	done := s.call("GET", r.Operation+"/wait?timeout=60", nil)
	if err := json.Unmarshal(done, &operation); err != nil || operation.Err != "" {
		s.t.Fatalf("%s %s: %v %s", method, path, err, operation.Err)
	}
	return operation.Metadata
}

// exec runs a script in an instance and returns what it prints.
func (s *incusServer) exec(instance string, uid int, script string) string {
	s.t.Helper()
	metadata := s.call("POST", "/1.0/instances/"+instance+"/exec", map[string]any{"command": []string{"/bin/sh", "-c", script}, "record-output": true, "user": uid,
		"environment": map[string]string{"PATH": "/bin"}})
	var r struct{ Output map[string]string }
	if err := json.Unmarshal(metadata, &r); err != nil {
		s.t.Fatal(err)
	}
	return string(s.call("GET", r.Output["1"], nil)) + string(s.call("GET", r.Output["2"], nil))
}

// TestIncusServer imports images into a server. It checks the fingerprints.
func TestIncusServer(t *testing.T) {
	startIncus(t)
	program, dir := packer(t)
	rootArchive(t, dir, richRoot(t))
	ours := filepath.Join(filepath.Dir(program), "cowl")
	if err := os.Symlink(program, ours); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--compression gzip", "--compression zstd", "--compression xz", "--compression lz4", "--compression lzma", "--type unified --compression gzip", "--type unified --compression none",
		"--type unified --compression xz", "--vm --compression zstd", "--vm --type unified --compression zstd"} {
		alias := strings.ReplaceAll(strings.ReplaceAll(args, " ", "."), "--", "")
		out := succeed(t, dir, ours, append(strings.Fields("pack-incus d.yaml root.tar out --output json --import-into-incus={{image.distribution}}-"+alias), strings.Fields(args)...)...)
		var r struct{ Fingerprint string }
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		// the second time the server has it
		if o := runIn(t, dir, ours, append(strings.Fields("pack-incus d.yaml root.tar out --import-into-incus=tiny-"+alias), strings.Fields(args)...)...); o.code != 0 || !strings.Contains(o.stderr, "the server has an image with the fingerprint "+r.Fingerprint+" already") {
			t.Errorf("%s: %+v", args, o)
		}
	}
}

// bootable adds to a root file system the programs that a container starts, one of them
// with a file capability.
func bootable(t *testing.T, tree *fstree.Tree) {
	t.Helper()
	busybox, err := os.ReadFile(testkit.Tool(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	when := time.Unix(1700000000, 0)
	for _, name := range []string{"bin/busybox", "bin/busybox-raw"} {
		n, err := tree.PutFile(name, busybox, when)
		if err != nil {
			t.Fatal(err)
		}
		if n.Mode = 0o755; name == "bin/busybox-raw" { // cap_net_raw, permitted and effective
			n.SetXattrs([]fstree.Xattr{{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}})
		}
	}
	links := map[string]string{"sbin/init": "../bin/busybox"}
	for _, name := range []string{"sh", "cat", "stat", "id", "grep", "cut", "env", "chown", "chmod"} {
		links["bin/"+name] = "busybox"
	}
	for _, d := range []string{"sbin", "root"} {
		if err := tree.Root.Set(d, fstree.NewDir(0o755)); err != nil {
			t.Fatal(err)
		}
	}
	for path, target := range links {
		if err := tree.Root.Lookup(filepath.Dir(path)).Set(filepath.Base(path), &fstree.Node{Kind: fstree.Symlink, Mode: 0o777, Target: target, ModTime: when}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIncusContainers runs containers of our images, with the users of the host and with
// users of their own, beside those of distrobuilder's where it is there.
func TestIncusContainers(t *testing.T) {
	needUserNamespaces(t)
	server := startIncus(t)
	program, dir := packer(t)
	tree := richRoot(t)
	bootable(t, tree)
	rootArchive(t, dir, tree)
	ours := filepath.Join(filepath.Dir(program), "cowl")
	if err := os.Symlink(program, ours); err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"split --compression zstd", "unified --type unified --compression gzip"} {
		name, options, _ := strings.Cut(line, " ")
		succeed(t, dir, ours, append(strings.Fields("pack-incus d.yaml root.tar out --import-into-incus="+name), strings.Fields(options)...)...)
	}
	images := []string{"split", "unified"}
	if theirs := findDistrobuilder(); theirs != "" {
		images = append(images, "theirs")
		if err := errors.Join(os.Mkdir(filepath.Join(dir, "root"), 0o755), os.Mkdir(filepath.Join(dir, "theirs"), 0o755)); err != nil {
			t.Fatal(err)
		}
		succeed(t, dir, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", "root.tar", "-C", "root")
		succeed(t, dir, theirs, strings.Fields("pack-incus d.yaml root theirs --compression zstd --import-into-incus=theirs --cache-dir "+filepath.Join(dir, "cache"))...)
	}
	server.call("POST", "/1.0/storage-pools", map[string]any{"name": "default", "driver": "dir"})
	for _, image := range images {
		for _, privileged := range []string{"true", "false"} {
			name := image + "-" + privileged
			server.call("POST", "/1.0/instances", map[string]any{"name": name, "source": map[string]string{"type": "image", "alias": image}, "profiles": []string{},
				"config":  map[string]string{"security.privileged": privileged},
				"devices": map[string]any{"root": map[string]string{"type": "disk", "path": "/", "pool": "default"}}})
			server.call("PUT", "/1.0/instances/"+name+"/state", map[string]any{"action": "start"})
			mapped := "0 0"
			if privileged == "false" {
				mapped = "0 1000000"
			}
			for _, c := range []struct {
				what, script, want string
				uid                int
			}{
				{"users", "read a b c </proc/self/uid_map; echo $a $b; id -u", mapped + "\n0\n", 0},
				{"templates", "cat /etc/hostname /etc/foo; grep -c " + name + " /etc/hosts", name + "\nx " + name + "\n1\n", 0},
				{"owners and modes", "stat -c '%u:%g %a %h' '/a file with spaces'; stat -c '%a' /tmp", "12:1048576 4750 1\n1777\n", 0},
				{"hard links", "[ /hard -ef /usr/bin/tool ] && stat -c %h /hard", "2\n", 0},
				{"devices", "stat -c '%F %t:%T' /zero /disk; stat -c %F /fifo", "character special file 1:5\nblock special file 8:12c\nfifo\n", 0},
				{"no capabilities", "grep CapEff /proc/self/status | cut -f 2", "0000000000000000\n", 1000},
				{"file capabilities", "busybox-raw grep CapEff /proc/self/status | cut -f 2", "0000000000002000\n", 1000},
			} {
				if got := server.exec(name, c.uid, c.script); got != c.want {
					t.Errorf("%s, privileged %s, %s: %q, want %q", image, privileged, c.what, got, c.want)
				}
			}
			server.call("PUT", "/1.0/instances/"+name+"/state", map[string]any{"action": "stop", "force": true})
			server.call("DELETE", "/1.0/instances/"+name, nil)
		}
	}
}
