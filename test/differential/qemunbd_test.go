//go:build unix

package differential

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// nbdPrograms returns QEMU's server and ours.
func nbdPrograms(t *testing.T) (theirs, ours string) {
	t.Helper()
	theirs = testkit.Tool(t, "qemu-nbd")
	tools := needCLI(t)
	dir := t.TempDir()
	ours = filepath.Join(dir, "qemu-nbd")
	if err := os.Symlink(tools.ours, ours); err != nil {
		t.Fatal(err)
	}
	return theirs, ours
}

// runNBD runs a command that ends by itself.
func runNBD(t *testing.T, dir, program string, args ...string) outcome {
	t.Helper()
	return runWithin(t, time.Minute, dir, nil, program, args...)
}

// nbdSessions are command lines that end by themselves.
const nbdSessions = `

a.qcow2 a.qcow2
nope
-k rel.sock raw.img
-p abc -f raw raw.img
-p -1 -f raw raw.img
-e abc raw.img
-e -1 raw.img
-e 4294967296 raw.img
--cache=bogus raw.img
--cache=none --cache=none raw.img
-n --cache=none raw.img
--discard=bogus raw.img
--aio=bogus raw.img
--aio=threads --aio=threads raw.img
--aio=native -k /SOCK -f raw raw.img
--detect-zeroes=bogus raw.img
--detect-zeroes=unmap raw.img
-k /SOCK -f qcow2 --detect-zeroes=unmap --discard=ignore a.qcow2
-o abc raw.img
-o 9223372036854775808 raw.img
-o 8388608 -k /SOCK -f raw raw.img
-k /SOCK -B nope a.qcow2
-k /SOCK -B nope -f raw raw.img
-k /SOCK -B one -f qcow2 a.qcow2
-k /SOCK -A -l x a.qcow2
-k /SOCK -l x -f raw raw.img
-k /SOCK -l snapshot.id=9 snap.qcow2
-k /SOCK -l snapshot.name=nope snap.qcow2
-k /SOCK -l snapshot.bogus=x snap.qcow2
-k /SOCK -s -l x a.qcow2
-f bogus raw.img
-f qcow2 raw.img
--image-opts -f raw raw.img
--image-opts driver=qcow2,file.filename=nope
--image-opts driver=bogus,file.filename=raw.img
-L
-L raw.img
-L -k /nosock
-L -r
-L -t
-L -e 2
-L -v
-L -s
-L -x a
-L -D x
-L -f raw
-L -o 1
-L -B x
-L -A
-L -l x
-L -n
-L --cache=none
-L --aio=threads
-L --fork
-L -d
-L -c /dev/nbd0
-L -b 127.0.0.1 -p 1
-L --selinux-label=x
--object bad
--object secret,id=s raw.img
--object secret,id=s,data=x
--tls-creds=t -k /SOCK raw.img
--tls-authz=t raw.img
--tls-hostname=x -L
--tls-hostname=x raw.img
--object tls-creds-x509,id=t,dir=/nodir,endpoint=server --tls-creds=t -f raw raw.img
--object tls-creds-x509,id=t,dir=/nodir,endpoint=client --tls-creds=t -L
-c /dev/cowl-nbd0 -f raw raw.img
-d
-d /dev/cowl-nbd0
-d x y
-c
-d /dev/nbd0 -c /dev/nbd1 raw.img
--bogus
-Z
-p
--handshake-limit=x raw.img
--handshake-limit=-1 raw.img
--pid-file=/nonexistent/a -k /SOCK -f raw raw.img
--selinux-label=x raw.img
--fork nope
--fork -k /nonexistent/s -f raw raw.img
-b 1.2.3.4 -f raw raw.img
-k /nonexistent/s -f raw raw.img
-k /SOCK dir
-k /SOCK -f raw dir
-r nope
-s nope
-k /SOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKETSOCKET -f raw raw.img
--object iothread,id=x,poll-max-ns=-5 nope
--object iothread,id=x nope
--object throttle-group,id=x,x-iops-total-max=1 nope
-k /SOCK orphan.qcow2
`

// nbdDiffers are the sessions whose text differs on purpose, with the reason.
var nbdDiffers = map[string]string{
	"-c /dev/cowl-nbd0 -f raw raw.img": "says that there is no such device, and how it is called",
	"-o 9223372036854775808 raw.img":   "is said before the image is opened",
}

// TestQemuNBDErrors compares what is said of command lines that cannot be, and the
// exit codes.
func TestQemuNBDErrors(t *testing.T) {
	theirs, _ := nbdPrograms(t)
	testNBDErrors(t, theirs)
}

// TestQemuNBDErrorsNewest is the same beside the newest version of QEMU.
func TestQemuNBDErrorsNewest(t *testing.T) {
	testNBDErrors(t, filepath.Join(newestDir(t), "qemu-nbd"))
}

// nbdName is how the newest names itself: it has a loader of its own.
var nbdName = regexp.MustCompile("/[^ '\"`]*/qemu-nbd( |:)")

func testNBDErrors(t *testing.T, theirs string) {
	_, ours := nbdPrograms(t)
	dir := fixtures(t, needCLI(t))
	used := map[string]bool{}
	for line := range strings.Lines(strings.TrimPrefix(nbdSessions, "\n")) {
		line = strings.TrimSpace(line)
		t.Run(line, func(t *testing.T) {
			var got [2]outcome
			for i, program := range []string{theirs, ours} {
				args := strings.Fields(strings.ReplaceAll(line, "/SOCK", filepath.Join(dir, "sock")))
				got[i] = runNBD(t, dir, program, args...)
				got[i].stderr = nbdName.ReplaceAllString(got[i].stderr, "qemu-nbd$1")
			}
			if got[0] == got[1] {
				return
			}
			if reason := nbdDiffers[line]; reason != "" && got[0].code == got[1].code && got[0].stdout == got[1].stdout {
				used[line] = true
				t.Logf("%s:\n%s%s", reason, got[0].stderr, got[1].stderr)
				return
			}
			t.Errorf("original: %+v\nours:     %+v", got[0], got[1])
		})
	}
	for line, reason := range nbdDiffers {
		if reason != "" && !used[line] && !t.Failed() {
			t.Errorf("%q does not differ any more", line)
		}
	}
}

// nbdRun runs a client, which must succeed, and returns what it prints.
func nbdRun(t *testing.T, program string, args ...string) string {
	t.Helper()
	o := runNBD(t, ".", program, args...)
	if o.code != 0 {
		t.Fatalf("%s %v: %+v", program, args, o)
	}
	return o.stdout
}

// nbdServe starts a server in the background, which is ready when this returns, and
// gives the path of its socket and what stops it.
func nbdServe(t *testing.T, dir, program string, args ...string) (socket string, stop func()) {
	t.Helper()
	tmp := t.TempDir()
	sock, pidFile := filepath.Join(tmp, "s"), filepath.Join(tmp, "pid")
	args = append([]string{"--fork", "--pid-file=" + pidFile, "-t", "-k", sock}, args...)
	if o := runNBD(t, dir, program, args...); o.code != 0 {
		t.Fatalf("%s %v: %+v", program, args, o)
	}
	pid := readPID(t, pidFile)
	ended := false
	t.Cleanup(func() {
		if !ended {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
	return sock, func() {
		ended = true
		endServer(t, program, pid)
	}
}

func readPID(t *testing.T, name string) int {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// endServer ends a server that is no child of the test, and waits until it is gone.
func endServer(t *testing.T, program string, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Errorf("the server was gone: %v", err)
	}
	again := time.Now().Add(time.Second)
	for end := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		// QEMU forgets a signal that comes right after its parent has ended.
		if program == testkit.Tool(t, "qemu-nbd") && time.Now().After(again) {
			_ = syscall.Kill(pid, syscall.SIGTERM)
			again = time.Now().Add(time.Second)
		}
		if ended(pid) {
			break
		}
		if time.Now().After(end) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
			t.Fatalf("%s does not end", program)
		}
	}
}

// nbdExports are options under which an image is served.
var nbdExports = []string{
	"-f raw raw.img", "-f qcow2 a.qcow2", "-f qcow2 top.qcow2", "-r -f qcow2 top.qcow2", "-f qcow2 -A top.qcow2", "-e 4 -f qcow2 a.qcow2",
	"-x name -D description -f raw raw.img", "-r -e 0 -f raw raw.img", "-o 65536 -f raw raw.img", "-o 1024 -f qcow2 a.qcow2",
	"-r -l first -f qcow2 snap.qcow2", "-l snapshot.name=first -f qcow2 snap.qcow2", "-s -f qcow2 a.qcow2", "-s -f raw raw.img",
	"--image-opts driver=qcow2,file.filename=comp.qcow2", "-f qcow2 comp.qcow2", "-n -f raw raw.img", "--cache=unsafe --discard=unmap -f qcow2 a.qcow2",
	"--detect-zeroes=on -f qcow2 a.qcow2", "-f qcow2 ext.qcow2", "-f qcow2 old.qcow2", "a.qcow2", "-f raw tail.img",
}

// nbdPort matches what differs between two servers in what clients print of them.
var nbdPort = regexp.MustCompile(`(?m)"uri": .*$|socket=[^"' ]*`)

// TestQemuNBDExports compares what clients see of QEMU's server and of ours:
// what it offers, the list of exports, all contexts, and the content.
func TestQemuNBDExports(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	info := testkit.Tool(t, "nbdinfo")
	img := testkit.Tool(t, "qemu-img")
	dir := fixtures(t, needCLI(t))
	for _, line := range nbdExports {
		t.Run(line, func(t *testing.T) {
			var told [2]map[string]any
			var text [2]string
			for i, program := range []string{theirs, ours} {
				sock, stop := nbdServe(t, dir, program, strings.Fields(line)...)
				name := ""
				if _, after, ok := strings.Cut(line, "-x "); ok {
					name, _, _ = strings.Cut(after, " ")
				}
				uri := "nbd+unix:///" + name + "?socket=" + sock
				out := nbdRun(t, info, "--json", uri)
				if err := json.Unmarshal([]byte(out), &told[i]); err != nil {
					t.Fatal(err)
				}
				for _, e := range told[i]["exports"].([]any) {
					delete(e.(map[string]any), "uri")
				}
				for _, c := range []string{"base:allocation", "qemu:allocation-depth"} {
					if strings.Contains(out, c) {
						text[i] += nbdRun(t, info, "--map="+c, "--json", uri)
					}
				}
				for _, lister := range []string{theirs, ours} {
					text[i] += nbdRun(t, lister, "-L", "-k", sock)
				}
				raw := filepath.Join(t.TempDir(), "raw")
				nbdRun(t, img, "convert", "-f", "raw", "-O", "raw", uri, raw)
				text[i] += testkit.Run(t, "sha256sum", raw)[:64]
				stop()
				text[i] = nbdPort.ReplaceAllString(text[i], "")
			}
			if !reflect.DeepEqual(told[0], told[1]) {
				t.Errorf("nbdinfo of QEMU: %v\nof ours: %v", told[0], told[1])
			}
			if text[0] != text[1] {
				t.Errorf("QEMU: %s\nours: %s", text[0], text[1])
			}
		})
	}
}
