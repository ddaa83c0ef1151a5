package endtoend

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
	"github.com/cowl-disk/cowl/internal/testkit/sshd"
)

// restarter is a killed by its functions.
type restarter struct{ killing, starting func() }

func (r restarter) kill()  { r.killing() }
func (r restarter) start() { r.starting() }

// restartedSize is that of the disk that is copied, twice as many bytes as a copy moves in a second.
const restartedSize = 32 << 20

// copied copies a new disk to a name on a server, or from there, and has the server killed on the way. file is what the server
// has it in.
func copied(t *testing.T, k killed, name, file string, write bool) {
	t.Helper()
	here := filepath.Join(t.TempDir(), "here")
	from, to := file, here
	if write {
		from, to = here, file
	}
	randomFile(t, from, restartedSize)
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(to, restartedSize); err != nil {
		t.Fatal(err)
	}
	args := []string{"convert", "-n", "-r", "16M", "--progress=json", "-f", "raw", "-O", "raw", name, here}
	if write {
		args[len(args)-2], args[len(args)-1] = here, name
	}
	interrupted(t, k, 1, `"phase":"copy"`, program, args...)
	if !bytes.Equal(readFile(t, here), readFile(t, file)) {
		t.Errorf("%v: another disk", args)
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRestartedNFS: a server of NFS that is killed and started again in the middle of a copy loses nothing of it.
func TestRestartedNFS(t *testing.T) {
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	k := restarter{s.Kill, func() { s.Run(t) }}
	for version, dir := range map[string]string{"3": s.Dir, "4": "/export"} {
		for _, write := range []bool{true, false} {
			if version == "4" && !write && !testkit.Long() {
				continue
			}
			file := fmt.Sprint("disk", version, write)
			copied(t, k, "nfs://127.0.0.1"+dir+"/"+file+"?version="+version, filepath.Join(s.Dir, file), write)
		}
	}
}

// TestRestartedSSH: the processes of an SSH server that have the connections of a copy are killed.
func TestRestartedSSH(t *testing.T) {
	s := sshd.Start(t, "")
	t.Setenv("HOME", s.Home)
	t.Setenv("SSH_AUTH_SOCK", "")
	k := restarter{func() { killDescendants(t, s.PID) }, func() {}}
	for _, write := range []bool{true, false} {
		file := filepath.Join(t.TempDir(), "disk")
		copied(t, k, s.URL(file), file, write)
	}
}

// killDescendants kills what a process has started, and what that has.
func killDescendants(t *testing.T, pid int) {
	t.Helper()
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		b, _ := os.ReadFile(task) // it may have ended
		for _, word := range strings.Fields(string(b)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			killDescendants(t, child)
			_ = syscall.Kill(child, syscall.SIGKILL)
		}
	}
}

// TestRestartedHTTP: a web server that is restarted does not hold up a copy that it is read by.
func TestRestartedHTTP(t *testing.T) {
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var s *http.Server
	start := func() {
		if l == nil {
			if l, err = net.Listen("tcp", s.Addr); err != nil {
				t.Fatal(err)
			}
		}
		s = &http.Server{Addr: l.Addr().String(), Handler: http.FileServer(http.Dir(dir))}
		server, listener := s, l
		l = nil
		go func() { _ = server.Serve(listener) }()
	}
	start()
	t.Cleanup(func() { _ = s.Close() })
	copied(t, restarter{func() { _ = s.Close() }, start}, "http://"+s.Addr+"/disk", filepath.Join(dir, "disk"), false)
}
