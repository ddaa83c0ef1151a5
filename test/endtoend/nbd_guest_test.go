package endtoend

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestNBDGuest boots a guest whose disk our server serves: it reads every file and
// writes one; the image and the file system on it are sound afterwards.
func TestNBDGuest(t *testing.T) {
	g := newGuest(t)
	img := filepath.Join(g.dir, "served.qcow2")
	cowl(t, "convert", "-f", "raw", "-O", "qcow2", g.disk, img)
	sock, stop := serveProgram(t, "-f", "qcow2", "--discard=unmap", img)
	g.boot(t, "format=raw,file="+nbdURI(sock, ""))
	stop()
	g.check(t, img)
}

// qmp talks to a QEMU program.
type qmp struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
}

type qmpMessage struct {
	Event, ID string
	Return    json.RawMessage
	Error     json.RawMessage
	Data      map[string]any
}

func (q *qmp) read() (m qmpMessage) {
	q.t.Helper()
	line, err := q.out.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &m)
	}
	if err != nil {
		q.t.Fatalf("QMP: %v: %s", err, line)
	}
	return m
}

// do runs a command and returns the events that came before its answer.
func (q *qmp) do(command, arguments string) (events []qmpMessage) {
	q.t.Helper()
	if arguments == "" {
		arguments = "{}"
	}
	fmt.Fprintf(q.in, `{"execute":%q,"id":%[1]q,"arguments":%s}`+"\n", command, arguments)
	for {
		switch m := q.read(); {
		case m.Error != nil:
			q.t.Fatalf("%s %s: %s", command, arguments, m.Error)
		case m.ID == command:
			return events
		default:
			events = append(events, m)
		}
	}
}

// wait waits for an event that is not among those that came already.
func (q *qmp) wait(name string, had []qmpMessage) map[string]any {
	q.t.Helper()
	for _, m := range had {
		if m.Event == name {
			return m.Data
		}
	}
	for {
		if m := q.read(); m.Event == name {
			return m.Data
		}
	}
}

// TestNBDMirror has QEMU mirror a disk onto our export while the disk is
// written to.
func TestNBDMirror(t *testing.T) {
	daemon := testkit.Tool(t, "qemu-storage-daemon")
	for _, format := range nbdFormats {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			src, target := nbdImage(t, "qcow2"), filepath.Join(dir, "target")
			testkit.Run(t, "qemu-img", "create", "-q", "-f", format, target, "64M")
			sock, stop := serveProgram(t, "-t", "-x", "disk", "-f", format, "--discard=unmap", target)
			live := nbdSocket(t)
			cmd := exec.Command(daemon, "--chardev", "stdio,id=m", "--monitor", "m",
				"--blockdev", "qcow2,node-name=src,file.driver=file,file.filename="+src,
				"--nbd-server", "addr.type=unix,addr.path="+live, "--export", "nbd,id=e,node-name=src,writable=on")
			in, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			// What waits for it must not wait for ever.
			timer := time.AfterFunc(30*time.Second, func() { cmd.Process.Kill() })
			t.Cleanup(func() {
				timer.Stop()
				cmd.Process.Kill()
				cmd.Wait()
			})
			q := &qmp{t, in, bufio.NewReader(out)}
			q.read() // the greeting
			q.do("qmp_capabilities", "")
			q.do("blockdev-add", fmt.Sprintf(`{"node-name":"dst","driver":"nbd","export":"disk","discard":"unmap","server":{"type":"unix","path":%q}}`, sock))
			had := q.do("blockdev-mirror", `{"job-id":"j","device":"src","target":"dst","sync":"full","copy-mode":"background"}`)
			testkit.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 9 4M 2M", "-c", "write -z 9M 1M", "-c", "write -P 4 1000 100", nbdURI(live, "src"))
			q.wait("BLOCK_JOB_READY", had)
			testkit.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 11 30M 300k", "-c", "discard 8M 1M", nbdURI(live, "src"))
			had = q.do("block-job-cancel", `{"device":"j"}`)
			if d := q.wait("BLOCK_JOB_COMPLETED", had); d["error"] != nil {
				t.Fatalf("%v", d)
			}
			q.do("blockdev-del", `{"node-name":"dst"}`)
			q.do("quit", "")
			cmd.Wait()
			stop()
			testkit.Run(t, "qemu-img", "compare", "-f", "qcow2", "-F", format, src, target)
			if format == "qcow2" {
				testkit.Run(t, "qemu-img", "check", "-q", "-f", format, target)
			}
		})
	}
}
