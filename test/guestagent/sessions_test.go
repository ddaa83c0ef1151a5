//go:build linux

package guestagent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFiles opens, reads, writes and moves in files of both agents' folders.
func TestFiles(t *testing.T) {
	their, our := start(t, theirs(t)), start(t, ours)
	for _, a := range []*agent{their, our} {
		must(t, os.WriteFile(filepath.Join(a.dir, "data"), []byte(strings.Repeat("0123456789", 1000)), 0o640))
		must(t, os.Mkdir(filepath.Join(a.dir, "folder"), 0o755))
	}
	big := strings.Repeat("QUJDREVG", 2000)
	open := func(path, mode string) string {
		return command("guest-file-open", fmt.Sprintf(`{"path":"%s","mode":"%s"}`, path, mode))
	}
	call := func(name string, handle int, more string) string {
		return command("guest-file-"+name, fmt.Sprintf(`{"handle":%d%s}`, handle, more))
	}
	requests := []string{
		open("data", "r"), call("read", 1000, ""), call("read", 1000, `,"count":5`), call("seek", 1000, `,"offset":0,"whence":"cur"`),
		call("read", 1000, `,"count":0`), call("seek", 1000, `,"offset":-3,"whence":2`), call("read", 1000, `,"count":3`), call("read", 1000, ""),
		call("seek", 1000, `,"offset":-1,"whence":0`), call("seek", 1000, `,"offset":99999,"whence":"set"`), call("read", 1000, ""),
		call("read", 1000, `,"count":-1`), call("read", 1000, `,"count":50331649`), call("write", 1000, `,"buf-b64":"YQ=="`),
		call("seek", 1000, `,"offset":0,"whence":3`), call("seek", 1000, `,"offset":0,"whence":0`), call("read", 1000, `,"count":20000`), call("flush", 1000, ""),
		open("new", "w+"), call("write", 1001, `,"buf-b64":"YWJjZGVm"`), call("seek", 1001, `,"offset":1,"whence":"set"`), call("read", 1001, ""),
		call("write", 1001, `,"buf-b64":"YWJj","count":2`), call("write", 1001, `,"buf-b64":"YWJj","count":4`), call("write", 1001, `,"buf-b64":"YWJj","count":-1`),
		call("write", 1001, `,"buf-b64":"YWI"`), call("write", 1001, `,"buf-b64":"YQ==YQ=="`), call("write", 1001, `,"buf-b64":"YW\nJj"`),
		call("write", 1001, `,"buf-b64":"YW Jj"`), call("write", 1001, `,"buf-b64":""`), call("write", 1001, `,"buf-b64":"="`), call("write", 1001, `,"buf-b64":"===="`),
		call("write", 1001, `,"buf-b64":"Y==="`), call("write", 1001, `,"buf-b64":"YR=="`), call("write", 1001, `,"buf-b64":"`+big+`"`),
		call("seek", 1001, `,"offset":0,"whence":"end"`), call("seek", 1001, `,"offset":0,"whence":0`), call("read", 1001, ""), call("close", 1001, ""), call("close", 1001, ""),
		open("folder", "r"), call("read", 1002, ""), call("close", 1002, ""), open("folder", "w"), open("new", "a"), call("seek", 1003, `,"offset":0,"whence":"cur"`),
		call("write", 1003, `,"buf-b64":"WFla"`), call("seek", 1003, `,"offset":0,"whence":"cur"`), call("read", 1003, ""), call("close", 1003, ""),
		open("new", "a+"), call("read", 1004, ""), call("seek", 1004, `,"offset":-3,"whence":"end"`), call("read", 1004, ""), call("close", 1004, ""),
		open("data", "rb+"), call("read", 1005, `,"count":10`), call("write", 1005, `,"buf-b64":"WFla"`), call("seek", 1005, `,"offset":8,"whence":0`),
		call("read", 1005, `,"count":8`), call("close", 1005, ""), open("/dev/full", "w"), call("write", 1006, `,"buf-b64":"YQ=="`), call("flush", 1006, ""),
		call("write", 1006, `,"buf-b64":"`+big+`"`), call("flush", 1006, ""), call("close", 1006, ""), open("/dev/null", "r"), call("read", 1007, ""), call("close", 1007, ""),
		open("data", "w"), call("close", 1008, ""), call("close", 1000, ""), open("data/x", "r"),
	}
	for _, r := range requests {
		if want, got := normal(their.ask(r, 0)), normal(our.ask(r, 0)); got != want {
			t.Errorf("%.300q:\n got %.600s\nwant %.600s", r, got, want)
		}
	}
	for _, name := range []string{"data", "new", "qga.state"} {
		want, err1 := os.ReadFile(filepath.Join(their.dir, name))
		got, err2 := os.ReadFile(filepath.Join(our.dir, name))
		must(t, err1)
		must(t, err2)
		if string(got) != string(want) {
			t.Errorf("%s: %.200q, theirs: %.200q", name, got, want)
		}
	}
	st, err := os.Stat(filepath.Join(our.dir, "new"))
	must(t, err)
	if st.Mode().Perm() != 0o666 {
		t.Errorf("the mode of a new file is %v", st.Mode())
	}
}

var pidOf = regexp.MustCompile(`"pid": (\d+)`)

// run starts a program by an agent and returns its status when it has ended.
func (a *agent) run(args string) string {
	a.t.Helper()
	reply := a.ask(command("guest-exec", args), 0)
	m := pidOf.FindStringSubmatch(reply)
	if m == nil {
		return reply
	}
	for end := time.Now().Add(limit); ; {
		s := a.ask(command("guest-exec-status", `{"pid":`+m[1]+`}`), 0)
		if !strings.Contains(s, `"exited": false`) {
			return s
		}
		if time.Now().After(end) {
			a.t.Fatalf("%s does not end", args)
		}
	}
}

// TestExec runs programs by both agents.
func TestExec(t *testing.T) {
	their, our := start(t, theirs(t)), start(t, ours)
	for _, a := range []*agent{their, our} {
		must(t, os.WriteFile(filepath.Join(a.dir, "script"), []byte("echo script $0 $1 | sed s,/tmp.*/,,\n"), 0o755))
	}
	sh := func(script, more string) string {
		return fmt.Sprintf(`{"path":"sh","arg":["-c","%s"]%s}`, script, more)
	}
	for _, r := range []string{
		`{"path":"true"}`, `{"path":"false"}`, `{"path":"/bin/echo","arg":["a b","c"],"capture-output":true}`,
		sh("echo out; echo err >&2; exit 3", `,"capture-output":"separated"`), sh("echo out; echo err >&2; echo out", `,"capture-output":"merged"`),
		sh("echo out; echo err >&2", `,"capture-output":"none"`), sh("echo out; echo err >&2", `,"capture-output":false`),
		sh("kill -9 $$", `,"capture-output":true`), sh("kill -13 $$", ""), `{"path":"cat","input-data":"aGVsbG8K","capture-output":true}`,
		`{"path":"cat","input-data":"","capture-output":true}`, `{"path":"cat","capture-output":true}`, sh("env | grep -v PWD | sort", `,"env":["B=2","A=1"],"capture-output":true`),
		`{"path":"env","env":[],"capture-output":true}`, `{"path":"./script","arg":["x"],"capture-output":true}`,
		sh("trap", `,"capture-output":true`), sh("(sleep 0.05; echo late) & echo now", `,"capture-output":true`), sh("head -c 100000 /dev/zero", `,"capture-output":true`),
		sh("readlink /proc/self/fd/0; ls /proc/self/fd", `,"capture-output":true`), sh("umask", `,"capture-output":true`), `{"path":"sh","arg":["-c","exit 256"]}`,
		`{"path":"script","env":["PATH=."],"capture-output":true}`, sh("ulimit -n", `,"capture-output":true`),
	} {
		if want, got := normal(their.run(r)), normal(our.run(r)); got != want {
			t.Errorf("%s:\n got %.600s\nwant %.600s", r, got, want)
		}
	}
}

// TestExecOneStream captures one stream only, and programs after it end and get their
// input: QEMU's agent closes a descriptor of its own then.
func TestExecOneStream(t *testing.T) {
	our := start(t, ours)
	const both = `"arg":["-c","echo out; echo err >&2"]`
	for _, c := range []struct{ mode, want string }{
		{"stdout", `"out-data": "b3V0Cg=="`}, {"stderr", `"err-data": "ZXJyCg=="`},
	} {
		got := our.run(`{"path":"sh",` + both + `,"capture-output":"` + c.mode + `"}`)
		if !strings.Contains(got, c.want) || strings.Count(got, "-data") != 1 {
			t.Errorf("%s: %s", c.mode, got)
		}
		if got := our.run(`{"path":"cat","input-data":"aGkK","capture-output":true}`); !strings.Contains(got, `"out-data": "aGkK"`) {
			t.Errorf("after %s: %s", c.mode, got)
		}
	}
}

// TestExecUnknown asks for a process that is not there: the number is in the error.
func TestExecUnknown(t *testing.T) {
	if got := start(t, ours).ask(command("guest-exec-status", `{"pid":77}`), 0); !strings.Contains(got, "PID 77 does not exist") {
		t.Error(got)
	}
}

// TestExecBounds holds output and processes to their bounds, and says that output was
// cut.
func TestExecBounds(t *testing.T) {
	our := start(t, ours, "--exec-output-limit=1000", "--exec-process-limit=3")
	got := our.run(`{"path":"head","arg":["-c","5000","/dev/zero"],"capture-output":true}`)
	if !strings.Contains(got, `"out-truncated": true`) || len(got) > 1600 {
		t.Errorf("%.2000s", got)
	}
	var first string
	for i := range 5 {
		reply := our.ask(command("guest-exec", `{"path":"cat","input-data":""}`), 0)
		m := pidOf.FindStringSubmatch(reply)
		if m == nil && i < 3 {
			t.Fatal(reply)
		}
		if i == 0 {
			first = m[1]
		}
		for end := time.Now().Add(limit); m != nil && time.Now().Before(end); {
			if st, err := os.ReadFile("/proc/" + m[1] + "/stat"); err != nil || strings.Contains(string(st), ") Z") {
				break
			}
		}
	}
	for end := time.Now().Add(limit); ; {
		if got := our.ask(command("guest-exec-status", `{"pid":`+first+`}`), 0); strings.Contains(got, "does not exist") {
			break
		} else if !strings.Contains(got, `"exited": false`) || time.Now().After(end) {
			t.Fatalf("the process that ended first is kept: %s", got)
		}
	}
}

// TestDeadClient has a client die in the middle of a message: the next one is answered.
func TestDeadClient(t *testing.T) {
	our := start(t, ours)
	for _, piece := range []string{`{"execute":"guest-pi`, `{"execute":`, `[[[`, `"`} {
		_, err := our.conn.Write([]byte(piece))
		must(t, err)
		our.connect()
		got := our.ask(command("guest-sync", `{"id":1}`), 0)
		if !strings.HasPrefix(got, `{"return": 1}`) {
			t.Errorf("after %q: %s", piece, got)
		}
	}
}

// TestPolicy compares what is allowed, and the preset that only we have.
func TestPolicy(t *testing.T) {
	for _, args := range [][]string{{"-b", "guest-ping,guest-exec"}, {"-a", "guest-info,guest-sync,guest-sync-delimited"},
		{"-a", "guest-ping,guest-info,guest-sync-delimited", "-b", "guest-ping"}, {"--block-rpcs=guest-get-time", "-b", "guest-info"}} {
		their, our := start(t, theirs(t), args...), start(t, ours, args...)
		for _, r := range []string{command("guest-ping", ""), command("guest-info", ""), command("guest-exec", `{"path":"true"}`), command("guest-sync", `{"id":3}`)} {
			if want, got := normal(their.ask(r, 0)), normal(our.ask(r, 0)); got != want {
				t.Errorf("%v: %s:\n got %s\nwant %s", args, r, got, want)
			}
		}
	}
	safe := start(t, ours, "--preset", "safe")
	for _, r := range []string{command("guest-exec", `{"path":"true"}`), command("guest-file-open", `{"path":"/etc/passwd"}`), command("guest-set-user-password", "")} {
		if got := safe.ask(r, 0); !strings.Contains(got, "has been disabled: the command is not allowed") {
			t.Errorf("%s: %s", r, got)
		}
	}
	old := start(t, ours, "--blacklist", "guest-ping")
	if got := old.ask(command("guest-ping", ""), 0); !strings.Contains(got, "has been disabled") {
		t.Error(got)
	}
}
