//go:build linux

package guestagent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var (
	clock   = regexp.MustCompile(`(?m)^\d+\.\d{6}: `)
	glib    = regexp.MustCompile(`process:\d+\): CRITICAL \*\*: [0-9:.]+`)
	version = regexp.MustCompile(`QEMU Guest Agent 1[0-9.]+( \(cowl [^)]+\))?`)
)

// once runs an agent that ends by itself.
func once(t *testing.T, program, dir string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Args[0] = "qemu-ga"
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	var exit *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	text := func(b *bytes.Buffer) string {
		s := clock.ReplaceAllString(b.String(), "TIME: ")
		s = version.ReplaceAllString(s, "QEMU Guest Agent V")
		return glib.ReplaceAllString(s, "process:PID): CRITICAL **: TIME")
	}
	return text(&out), text(&errOut), cmd.ProcessState.ExitCode()
}

// TestCommandLines compares what both agents print, and their exit codes.
func TestCommandLines(t *testing.T) {
	original := theirs(t)
	dir := t.TempDir()
	for name, text := range map[string]string{
		"empty": "", "ok": "[general]\ndaemon=true\nmethod=isa-serial\npath=/x\nlogfile=/l\npidfile=/p\nfsfreeze-hook=/h\nstatedir=/s\nverbose=1\nretry-path=true\nblock-rpcs=a,b,c\nallow-rpcs=d;e,f\n",
		"bool": "[general]\nverbose=maybe\n", "line": "foo\n", "nogroup": "a=b\n", "escape": "[general]\nmethod=a\\sb\\tc\\\\\npath=\\sx y \n", "badescape": "[general]\nmethod=a\\q\n",
		"endescape": "[general]\nmethod=a\\\n", "comments": "# c\n\n[general]\n# x\nmethod = unix-listen \n path=/y\n[other]\nmethod=z\n", "twice": "[general]\nmethod=a\nmethod=b\n",
		"crlf": "[general]\r\nmethod=isa-serial\r\n", "unknown": "[general]\nfoo=bar\n", "badgroup": "[gen\nx=y\n", "emptylists": "[general]\nblock-rpcs=\nallow-rpcs=\n", "bool0": "[general]\ndaemon=0\nverbose=false\n",
		"emptyvalue": "[general]\nmethod=\n", "noequals": "[general]\nmethod\n", "groupspace": "[general] \nmethod=isa-serial\n", "keyspace": "[general]\nme thod=x\n", "dup": "[general]\nverbose=true\n[general]\nmethod=isa-serial\n",
		"boolspace": "[general]\nverbose=true  \n", "bool2": "[general]\nverbose=TRUE\n", "utf8": "[general]\npath=/é\n",
	} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	lines := []string{
		"-D", "-V", "--version", "--vers", "-b help", "-b ?", "--block-rpcs=help", "-a help", "--allow-rpcs ?", "-x", "-x -y --foo", "--foo=bar", "-m", "--method", "-D --verbose=1",
		"-F -D", "-F/x -D", "-F /x -D", "--fsfreeze-hook= -D", "--fsf=/y -D", "-D -vb a,b,c -b d", "-D -b a -b b,c -a x,y -a z", "-D -b , -a ,", "-D --block-rpcs a,,b",
		"-D -m foo", "-D -m unix-listen -p /s", "-m unix-listen", "-m vsock-listen", "-m foo -p /x -t .", "-D -l /l -f /f -t /t -r -d -v", "-dvrD", "-Dp/x", "-D --path=/x", "-D --pa /x", "-D extra operands",
		"-D -- -x", "--d", "-D --re", "-c nonexistent -D", "-c nonexistent -c ok -D", "-c ok -D", "-c ok -D -b x -m virtio-serial", "-c bool -D", "-c line -D", "-c nogroup -D", "-c escape -D", "-c badescape -D", "-c endescape -D",
		"-c comments -D", "-c twice -D", "-c crlf -D", "-c unknown -D", "-c badgroup -D", "-c emptylists -D", "-c bool0 -D", "-c emptyvalue -D", "-c noequals -D", "-c groupspace -D", "-c keyspace -D", "-c dup -D", "-c boolspace -D", "-c bool2 -D", "-c utf8 -D",
		"-c empty -D", "-c . -D", "--config ok -D", "-V -x", "-p ../x -D -t rel", "-m virtio-serial -p nonexistent -t .", "-m isa-serial -p nonexistent -t .", "-m unix-listen -p nonexistent/x -t .", "-l nonexistent/log -t .", "-D -l", "-Dvv",
	}
	for _, line := range lines {
		args := strings.Fields(line)
		wantOut, wantErr, wantCode := once(t, original, dir, args...)
		gotOut, gotErr, gotCode := once(t, ours, dir, args...)
		if gotOut != wantOut || gotErr != wantErr || gotCode != wantCode {
			t.Errorf("%s:\n got %d\n%s\n%s\nwant %d\n%s\n%s", line, gotCode, gotOut, gotErr, wantCode, wantOut, wantErr)
		}
	}
	t.Logf("%d command lines", len(lines))
}

// TestDaemon starts a daemon: its pid file is there and locked when the first process
// ends, a second daemon fails, and a signal ends it and removes the file.
func TestDaemon(t *testing.T) {
	dir := t.TempDir()
	pid := filepath.Join(dir, "pid")
	args := []string{"-d", "-m", "unix-listen", "-p", filepath.Join(dir, "socket"), "-t", dir, "-f", pid, "-l", filepath.Join(dir, "log")}
	if out, errOut, code := once(t, ours, dir, args...); code != 0 {
		t.Fatalf("%d %s %s", code, out, errOut)
	}
	data, err := os.ReadFile(pid)
	must(t, err)
	var number int
	for _, c := range strings.TrimSpace(string(data)) {
		number = number*10 + int(c-'0')
	}
	proc, err := os.FindProcess(number)
	must(t, err)
	defer proc.Kill()
	args[4] = filepath.Join(dir, "other")
	if _, errOut, code := once(t, ours, dir, args...); code != 1 || !strings.Contains(errOut, "Cannot lock pid file: Resource temporarily unavailable") {
		t.Errorf("a second daemon: %d %s", code, errOut)
	}
	must(t, proc.Signal(syscall.SIGTERM))
	for end := time.Now().Add(limit); ; {
		if _, err := os.Stat(pid); os.IsNotExist(err) {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the pid file stays")
		}
		<-time.After(time.Millisecond)
	}
}

// inherit starts an agent with a file that many times as from a service manager, and
// returns what it prints.
func inherit(t *testing.T, program, dir string, number int, file *os.File, args ...string) (*exec.Cmd, *bytes.Buffer) {
	t.Helper()
	// The variable has the number of the process: the shell becomes the agent.
	script := fmt.Sprintf(`export LISTEN_PID=$$ LISTEN_FDS=%d; exec "$0" "$@"`, number)
	cmd := exec.Command("sh", append([]string{"-c", script, program, "-t", dir}, args...)...)
	cmd.ExtraFiles = slices.Repeat([]*os.File{file}, number)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var errOut bytes.Buffer
	cmd.Stderr = &errOut
	must(t, cmd.Start())
	return cmd, &errOut
}

// TestInheritedSocket gives both agents the socket of a service manager, in the place of
// what the command line says, and what they have to refuse.
func TestInheritedSocket(t *testing.T) {
	for name, program := range map[string]string{"theirs": theirs(t), "ours": ours} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
			must(t, err)
			f, err := l.File()
			must(t, err)
			l.SetUnlinkOnClose(false)
			must(t, l.Close())
			a := &agent{t: t, dir: dir}
			a.cmd, a.err = inherit(t, program, dir, 1, f, "-m", "virtio-serial", "-p", "/nonexistent")
			must(t, f.Close())
			t.Cleanup(a.stop)
			for range 2 {
				a.connect()
				if got := a.ask(command("guest-sync", `{"id":6}`), 0); !strings.HasPrefix(got, `{"return": 6}`) {
					t.Error(got)
				}
			}
			// The programs that it runs do not get the socket.
			if got := a.output("sh", "-c", "echo $LISTEN_FDS; ls -l /proc/self/fd | grep -c socket"); got != "\n0\n" {
				t.Errorf("a program has the socket: %q", got)
			}
		})
	}
	null, err := os.Open(os.DevNull)
	must(t, err)
	defer null.Close()
	for number, want := range map[int]string{1: "unsupported listen fd type", 2: "qemu-ga only supports listening on one socket"} {
		for _, program := range []string{theirs(t), ours} {
			cmd, errOut := inherit(t, program, t.TempDir(), number, null)
			if err := cmd.Wait(); err == nil || cmd.ProcessState.ExitCode() != 1 || !strings.Contains(errOut.String(), want) {
				t.Errorf("%s with %d files: %v %s, want %s", program, number, err, errOut, want)
			}
		}
	}
}
