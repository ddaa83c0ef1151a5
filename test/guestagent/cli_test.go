//go:build linux

package guestagent

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
