package differential

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/glusterd"
)

// TestGluster compares what both programs say of files of a Gluster volume, and what they
// copy. QEMU takes ten seconds longer for each than it needs: its commands run side by side.
func TestGluster(t *testing.T) {
	if !testkit.Long() {
		t.Skip("COWL_LONG is not set")
	}
	if out, err := exec.Command("qemu-img", "info", "gluster:").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no gluster driver (qemu-block-extra)")
	}
	testkit.Tool(t, "glusterd")
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	tools := needCLI(t)
	needNative(t)
	s := glusterd.Start(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", at("s.qcow2"), "16M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 128k 3M", "-c", "write -P 8 9M 1M", at("s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", at("s.qcow2"), at("plain"))
	// The files get there behind the server's back, which is quicker.
	for _, c := range [][]string{{"--sparse=always", "plain", "plain"}, {"--sparse=never", "s.qcow2", "image"}} {
		testkit.Run(t, "cp", c[0], at(c[1]), filepath.Join(s.Brick, c[2]))
	}
	option := func(more string) string {
		return `json:{"driver":"raw","file":{"driver":"gluster","volume":"vol","path":"plain"` + more + `}}`
	}
	server := func(members string) string { return option(`,"server":[{` + members + `}]`) }
	const address = `"host":"` + glusterd.Address + `","port":"24007"`
	const (
		same   = iota
		first  // the same output and the same first line that tells of the failure: QEMU has a longer usage
		better // QEMU fails
		works  // both, and print something else
	)
	lines := []struct {
		args []string
		want int
		why  string
	}{
		{args: []string{"info", s.URL("plain")}},
		{args: []string{"info", "--output=json", s.URL("plain")}},
		{args: []string{"info", s.URL("image")}},
		{args: []string{"info", strings.Replace(s.URL("plain"), "gluster:", "gluster+tcp:", 1)}},
		{args: []string{"map", s.URL("plain")}},
		{args: []string{"map", "--output=json", s.URL("plain")}},
		{args: []string{"map", "--output=json", s.URL("image")}},
		{args: []string{"check", s.URL("image")}},
		{args: []string{"check", "-f", "raw", s.URL("plain")}},
		{args: []string{"measure", "-O", "qcow2", s.URL("plain")}},
		{args: []string{"compare", "-f", "raw", "-F", "raw", s.URL("plain"), "plain"}},
		{args: []string{"compare", "-f", "qcow2", "-F", "raw", s.URL("image"), "plain"}},
		{args: []string{"compare", "-f", "raw", "-F", "raw", s.URL("image"), "plain"}},
		{args: []string{"info", s.URL("none")}},
		{args: []string{"info", "gluster://" + glusterd.Address + "/novol/x"}},
		{args: []string{"info", server(`"type":"inet",` + address)}},
		{args: []string{"info", server(`"type":"tcp",` + address)}},
		{args: []string{"info", server(`"type":"inet","host":"` + glusterd.Address + `","port":"24009"},{"type":"inet",` + address)}, want: works, why: "the members of the name are in another order"},
		{args: []string{"info", server(`"type":"unix","path":"` + glusterd.Socket + `"`)}},
		{args: []string{"info", "gluster+unix:/vol/plain?socket=" + glusterd.Socket}},
		{args: []string{"info", "gluster+unix:///vol/plain?socket=" + glusterd.Socket}, want: better, why: "QEMU refuses the form that it documents"},
		{args: []string{"info", "gluster+rdma://" + glusterd.Address + "/vol/plain"}, want: better, why: "QEMU once took it for TCP"},
		{args: []string{"info", "gluster://" + glusterd.Address + "/vol"}, want: first},
		{args: []string{"info", "gluster:x"}, want: first},
		{args: []string{"info", s.URL("plain") + "?x=1"}, want: first},
		{args: []string{"info", option("")}, want: first},
		{args: []string{"info", server(address)}, want: first},
		{args: []string{"info", server(`"type":"vsock"`)}, want: first},
		{args: []string{"info", server(`"type":"inet","host":"h"`)}, want: first},
		{args: []string{"info", server(`"type":"inet","host":"h","port":"1","to":"2"`)}, want: first},
		{args: []string{"info", server(`"type":"inet","host":"h","port":"1","ipv4":"on"`)}, want: first},
		{args: []string{"info", server(`"type":"unix","path":"a","socket":"b"`)}, want: first},
		{args: []string{"info", server(`"type":"inet","host":"h","port":"x"`)}},
		{args: []string{"create", "-f", "raw", "-o", "help", s.URL("x")}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=foo", s.URL("x"), "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=full", s.URL("PROGRAM-full"), "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=falloc", s.URL("PROGRAM-falloc"), "1M"}},
		{args: []string{"create", "-f", "raw", s.URL("PROGRAM-raw"), "1M"}},
	}
	theirs := make([]outcome, len(lines))
	var wg sync.WaitGroup
	run := func(i int, program, image string) outcome {
		args := make([]string, len(lines[i].args))
		for k, a := range lines[i].args {
			args[k] = strings.ReplaceAll(a, "PROGRAM", image)
		}
		o := runIn(t, dir, program, args...)
		o.stdout, o.stderr = strings.ReplaceAll(o.stdout, image, "PROGRAM"), spoken(strings.ReplaceAll(o.stderr, image, "PROGRAM"))
		return o
	}
	for i := range lines {
		wg.Go(func() { theirs[i] = run(i, tools.img, "theirs") })
	}
	// What each writes, the other reads.
	want := testkit.Run(t, "cat", at("plain"))
	for i, format := range []string{"raw", "qcow2"} {
		for k, w := range [][2]string{{tools.ours, tools.img}, {tools.img, tools.ours}} {
			if k == 1 && testkit.Count(0) == 0 {
				continue // it takes half a minute
			}
			wg.Go(func() {
				url := s.URL(fmt.Sprintf("copy%d%d", i, k))
				back := at(fmt.Sprintf("back%d%d", i, k))
				if o := runIn(t, dir, w[0], "convert", "-f", "qcow2", "-O", format, "s.qcow2", url); o.code != 0 {
					t.Errorf("%s: %+v", w[0], o)
				} else if o := runIn(t, dir, w[1], "convert", "-f", format, "-O", "raw", url, back); o.code != 0 {
					t.Errorf("%s: %+v", w[1], o)
				} else if b, err := os.ReadFile(back); err != nil || string(b) != want {
					t.Errorf("%s: another disk, %v", w[0], err)
				}
			})
		}
	}
	wg.Wait()
	told := func(o outcome) string { // the first line that tells of the failure
		for line := range strings.Lines(o.stderr) {
			if !strings.Contains(line, "warning: ") {
				return line
			}
		}
		return ""
	}
	for i, l := range lines {
		theirs, ours := theirs[i], run(i, tools.ours, "ours")
		if theirs.code == -1 {
			// The library's farewell sometimes crashes when several programs say it at once.
			t.Logf("%v: QEMU crashes", l.args)
			if ours.code == -1 {
				t.Errorf("%v: we, too: %+v", l.args, ours)
			}
			continue
		}
		if l.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)) ||
			l.want == first && (theirs.code != ours.code || told(theirs) != told(ours) || !sameOutput(theirs.stdout, ours.stdout)) ||
			l.want == better && (theirs.code == 0 || ours.code != 0) ||
			l.want == works && theirs.code+ours.code != 0 {
			t.Errorf("%v (%s):\n%+v\nwant\n%+v", l.args, l.why, ours, theirs)
		}
	}
	glusterFaults(t, tools, s)
}

// spoken takes the lines of the library's log out of what a program says.
func spoken(text string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "[20") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// glusterFaults has the server or the second program fail while a disk is copied.
func glusterFaults(t *testing.T, tools cliBinaries, s *glusterd.Server) {
	src := filepath.Join(t.TempDir(), "src")
	p := make([]byte, 48<<20)
	testkit.Fill(testkit.Rand(1), p)
	if err := os.WriteFile(src, p, 0o644); err != nil {
		t.Fatal(err)
	}
	memory := 0
	copying := func(file string, middle func(cmd *exec.Cmd)) (string, error) {
		cmd := exec.Command(tools.ours, "convert", "-p", "-r", "32M", "-f", "raw", "-O", "raw", src, s.URL(file))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var messages bytes.Buffer
		cmd.Stderr = &messages
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		guard := time.AfterFunc(2*time.Minute, func() { _ = cmd.Process.Kill() }) // against a hang
		defer guard.Stop()
		done := false
		for b := make([]byte, 4096); ; {
			n, err := out.Read(b)
			if err != nil {
				break
			}
			memory = max(memory, peakMemory(cmd.Process.Pid))
			if text := string(b[:n]); !done && strings.Count(text, "%)") > strings.Count(text, "(0.00/") {
				done = true
				middle(cmd)
			}
		}
		err = cmd.Wait()
		if !done {
			t.Error("the copy was not seen in its middle")
		}
		return spoken(messages.String()), err
	}
	text, err := copying("paused", func(*exec.Cmd) {
		s.Pause(t)
		time.AfterFunc(time.Second, func() { s.Continue(t) })
	})
	if err != nil {
		t.Errorf("the server paused: %v: %s", err, text)
	}
	if got, err := os.ReadFile(filepath.Join(s.Brick, "paused")); err != nil || !bytes.Equal(got, p) {
		t.Errorf("another disk, %v", err)
	}
	if memory == 0 || memory > 96<<10 {
		t.Errorf("%d KiB of memory", memory)
	}
	text, err = copying("killed", func(cmd *exec.Cmd) { killChild(t, cmd) })
	if err == nil || !strings.Contains(text, "The program cowl-native for disks of Gluster ended before its time: signal: killed") {
		t.Errorf("the program killed: %v: %s", err, text)
	}
	defer testkit.HeedSignals()()
	text, err = copying("interrupted", func(cmd *exec.Cmd) {
		s.Pause(t)
		_ = cmd.Process.Signal(os.Interrupt)
	})
	if err == nil || !strings.Contains(text, "qemu-img: Interrupted") {
		t.Errorf("interrupted: %v: %s", err, text)
	}
	s.Continue(t)
	if testkit.Count(0) == 0 {
		return // the library believes in a server for long
	}
	text, err = copying("lost", func(*exec.Cmd) { s.KillBrick(t) })
	if err == nil || !strings.Contains(text, "qemu-img: ") {
		t.Errorf("the server killed: %v: %s", err, text)
	}
}
