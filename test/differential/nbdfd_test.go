//go:build unix

package differential

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// runInheriting runs a command whose descriptor 3 is file; nil leaves it closed.
func runInheriting(t *testing.T, dir string, file *os.File, program string, args ...string) outcome {
	t.Helper()
	return runWithin(t, 30*time.Second, dir, file, program, args...)
}

// runWithin is runInheriting for a command that must have ended after limit.
func runWithin(t *testing.T, limit time.Duration, dir string, file *os.File, program string, args ...string) outcome {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Args[0] = filepath.Base(program)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	cmd.WaitDelay = time.Second // a child that it leaves behind may keep the pipes
	if file != nil {
		cmd.ExtraFiles = []*os.File{file}
	}
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%s %v: %v, %v\n%s", program, args, err, ctx.Err(), errs.String())
	}
	return outcome{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// connectedTo returns a socket that is connected to a server.
func connectedTo(t *testing.T, sock string) *os.File {
	t.Helper()
	c, err := net.Dial("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f, err := c.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// nbdFDSessions are command lines of qemu-img with an inherited socket. The first word
// says what descriptor 3 is: a connection to the export "exp", which is read-only, to a
// disk of 1 MiB, and others that are no such thing.
const nbdFDSessions = `
exp info --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp info --output=json --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp info json:{"driver":"nbd","server":{"type":"fd","str":"3"},"export":"exp"}
exp info json:{"driver":"nbd","server.type":"fd","server.str":"3","export":"exp"}
exp info --output=json --image-opts driver=raw,offset=0,file.driver=nbd,file.server.type=fd,file.server.str=3,file.export=exp
exp info json:{"driver":"raw","size":65536,"file":{"driver":"nbd","server":{"type":"fd","str":"3"},"export":"exp"}}
exp info --image-opts driver=nbd,server.type=fd,server.str=+3,export=exp
exp info --image-opts driver=nbd,server.type=fd,server.str=003,export=exp
exp info --image-opts driver=nbd,server.type=fd,server.str=3,export=exp,reconnect-delay=5,open-timeout=5
exp info --image-opts driver=nbd,server.type=fd,server.str=3,export=nope
exp info --image-opts driver=nbd,server.type=fd,server.str=3,export=exp,x-dirty-bitmap=no
exp map --output=json --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp check --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp measure -O qcow2 --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp snapshot -l --image-opts driver=nbd,server.type=fd,server.str=3,export=exp
exp resize --image-opts driver=nbd,server.type=fd,server.str=3,export=exp 5M
exp convert -O qcow2 --image-opts driver=raw,file.driver=nbd,file.server.type=fd,file.server.str=3,file.export=exp out.qcow2
exp convert -O raw --image-opts driver=nbd,server.type=fd,server.str=3,export=exp out.raw
exp compare --image-opts driver=nbd,server.type=fd,server.str=3,export=exp driver=raw,file.driver=file,file.filename=raw.img
exp convert -n --target-image-opts raw.img driver=nbd,server.type=fd,server.str=3,export=exp
none compare out.qcow2 raw.img
none compare out.raw raw.img
rw convert -n --target-image-opts -f qcow2 a.qcow2 driver=raw,file.driver=nbd,file.server.type=fd,file.server.str=3
rw compare --image-opts driver=nbd,server.type=fd,server.str=3 driver=qcow2,file.driver=file,file.filename=a.qcow2
none info --image-opts driver=nbd,server.type=fd,server.str=3
file info --image-opts driver=nbd,server.type=fd,server.str=3
pipe info --image-opts driver=nbd,server.type=fd,server.str=3
listen info --image-opts driver=nbd,server.type=fd,server.str=3
alone info --image-opts driver=nbd,server.type=fd,server.str=3
gone info --image-opts driver=nbd,server.type=fd,server.str=3
gone convert --image-opts driver=nbd,server.type=fd,server.str=3 never.raw
exp info --image-opts driver=nbd,server.type=fd
exp info --image-opts driver=nbd,server.str=3
exp info --image-opts driver=nbd,server.type=fd,server.str=
exp info --image-opts driver=nbd,server.type=fd,server.str=socket
exp info --image-opts driver=nbd,server.type=fd,server.str=3x
exp info --image-opts driver=nbd,server.type=fd,server.str=0x3
exp info --image-opts driver=nbd,server.type=fd,server.str=-1
exp info --image-opts driver=nbd,server.type=fd,server.str=999
exp info --image-opts driver=nbd,server.type=fd,server.str=99999999999
exp info --image-opts driver=nbd,server.type=fd,server.str=3,server.path=/x
exp info --image-opts driver=nbd,server.type=fd,server.str=3,server.host=h
exp info --image-opts driver=nbd,server.type=fd,server.str=3,server.bogus=1
exp info --image-opts driver=nbd,server.type=fd,server.path=/x
exp info --image-opts driver=nbd,server.type=fd,server.str=3,path=/x
exp info --image-opts driver=nbd,server.type=unix,server.path=/x,server.str=3
exp info --image-opts driver=nbd,server.type=inet,server.host=h,server.port=1,server.str=3
`

// TestNBDInheritedSocket compares what both programs do with a socket that they were
// started with.
func TestNBDInheritedSocket(t *testing.T) {
	theirs, _ := nbdPrograms(t)
	tools := needCLI(t)
	var got [2][]outcome
	lines := strings.Split(strings.TrimSpace(nbdFDSessions), "\n")
	for i, program := range []string{tools.img, tools.ours} {
		dir := fixtures(t, tools)
		testkit.Run(t, "truncate", "-s", "1M", filepath.Join(dir, "rw.img"))
		exp, stop := nbdServe(t, dir, theirs, "-r", "-e", "0", "-x", "exp", "-f", "raw", "raw.img")
		t.Cleanup(stop)
		rw, stop := nbdServe(t, dir, theirs, "-e", "0", "-f", "raw", "rw.img")
		t.Cleanup(stop)
		for _, line := range lines {
			what, command, _ := strings.Cut(line, " ")
			var file, other *os.File
			switch what {
			case "exp":
				file = connectedTo(t, exp)
			case "rw":
				file = connectedTo(t, rw)
			case "none":
			default:
				file, other = oddDescriptor(t, dir, what)
			}
			got[i] = append(got[i], runInheriting(t, dir, file, program, strings.Fields(command)...))
			file.Close()
			other.Close()
		}
	}
	for k, line := range lines {
		if a, b := got[0][k], got[1][k]; a != b {
			t.Errorf("%s\noriginal: %+v\nours:     %+v", line, a, b)
		}
	}
}

// oddDescriptor opens something that is no connection to a server, and what keeps it
// alive, which may be nil.
func oddDescriptor(t *testing.T, dir, what string) (file, other *os.File) {
	t.Helper()
	var err error
	socket := func(domain int) *os.File {
		fd, e := unix.Socket(domain, unix.SOCK_STREAM, 0)
		if e != nil {
			t.Fatal(e)
		}
		unix.CloseOnExec(fd)
		return os.NewFile(uintptr(fd), what)
	}
	switch what {
	case "file":
		file, err = os.Open(filepath.Join(dir, "raw.img"))
	case "pipe":
		file, other, err = os.Pipe()
	case "alone":
		file = socket(unix.AF_UNIX)
	case "listen":
		file = socket(unix.AF_UNIX)
		// Bound to a name of the system's choice.
		if err = unix.Bind(int(file.Fd()), &unix.SockaddrUnix{}); err == nil {
			err = unix.Listen(int(file.Fd()), 1)
		}
	case "gone":
		var fds [2]int
		if fds, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0); err == nil {
			unix.Close(fds[1])
			file = os.NewFile(uintptr(fds[0]), what)
		}
	default:
		t.Fatalf("what is %q?", what)
	}
	if err != nil {
		t.Fatal(err)
	}
	return file, other
}
