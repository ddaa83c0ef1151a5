package differential

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ceph"
)

// needNative builds cowl-native and has cowl find it.
func needNative(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" && runtime.GOARCH != "arm64" {
		t.Skip("there is no second program for this system")
	}
	program := filepath.Join(t.TempDir(), "cowl-native")
	if err := testkit.Build(program, "./cmd/cowl-native"); err != nil {
		t.Fatal(err)
	}
	t.Setenv("COWL_NATIVE", program)
}

// needCeph starts a cluster that both programs find without a name.
func needCeph(t *testing.T) *ceph.Cluster {
	t.Helper()
	ceph.Need(t)
	if testing.Short() {
		t.Skip("a cluster takes some seconds to start")
	}
	if out, err := exec.Command("qemu-img", "info", "rbd:").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no rbd driver (qemu-block-extra)")
	}
	needNative(t)
	c, err := ceph.Start(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Stop)
	t.Setenv("CEPH_CONF", c.Conf)
	return c
}

// TestRBD compares what both programs say of images of Ceph, and what they copy. Those that
// programs change have the names of the programs, which IMG stands for.
func TestRBD(t *testing.T) {
	tools := needCLI(t)
	c := needCeph(t)
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", at("s.qcow2"), "32M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -P 8 17M 1M", at("s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", at("s.qcow2"), at("plain"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", at("s.qcow2"), "rbd:rbd/plain")
	testkit.Run(t, tools.img, "convert", "-O", "qcow2", at("s.qcow2"), "rbd:rbd/image")
	c.RBD(t, "namespace", "create", "rbd/ns")
	testkit.Run(t, tools.img, "create", "-q", "-f", "raw", "-o", "cluster_size=64k", "rbd:rbd/ns/small", "1M")
	c.RBD(t, "snap", "create", "rbd/plain@old")
	c.RBD(t, "create", "--size", "8M", "--image-feature", "layering", "rbd/simple")
	const (
		same  = iota
		fails // both, in other words
		lines // both the same, but for lines about an error or a warning
	)
	option := func(more string) string {
		return `json:{"driver":"raw","file":{"driver":"rbd","pool":"rbd","image":"plain"` + more + `}}`
	}
	for i, l := range []struct {
		args []string
		want int
		why  string
	}{
		{args: []string{"info", "rbd:rbd/plain"}},
		{args: []string{"info", "--output=json", "rbd:rbd/plain"}},
		{args: []string{"info", "rbd:rbd/image"}},
		{args: []string{"info", "rbd:rbd/ns/small"}},
		{args: []string{"info", "rbd:rbd/plain@old"}},
		{args: []string{"info", "rbd:rbd/plain@none"}},
		{args: []string{"info", "rbd:rbd/plain:conf=" + c.Conf + ":id=admin:rbd_cache=false"}},
		{args: []string{"map", "rbd:rbd/plain"}},
		{args: []string{"map", "--output=json", "rbd:rbd/plain"}},
		{args: []string{"map", "--output=json", "-s", "5M", "rbd:rbd/plain"}},
		{args: []string{"map", "--output=json", "rbd:rbd/image"}},
		{args: []string{"map", "--output=json", "rbd:rbd/ns/small"}},
		{args: []string{"map", "--output=json", "rbd:rbd/plain@old"}},
		{args: []string{"map", "--output=json", "rbd:rbd/simple"}},
		{args: []string{"check", "rbd:rbd/image"}},
		{args: []string{"check", "-f", "raw", "rbd:rbd/plain"}},
		{args: []string{"measure", "-O", "qcow2", "rbd:rbd/plain"}},
		{args: []string{"compare", "rbd:rbd/plain", "rbd:rbd/image"}},
		{args: []string{"compare", "rbd:rbd/plain@old", "plain"}},
		{args: []string{"compare", "-f", "raw", "-F", "raw", "rbd:rbd/image", "plain"}},
		{args: []string{"snapshot", "-l", "rbd:rbd/plain"}},
		{args: []string{"create", "-f", "raw", "rbd:rbd/IMG", "10M"}},
		{args: []string{"create", "-f", "raw", "rbd:rbd/IMG", "10M"}},
		{args: []string{"info", "rbd:rbd/IMG"}},
		{args: []string{"snapshot", "-l", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"snapshot", "-c", "one", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"snapshot", "-c", "one", "rbd:rbd/IMG"}, want: lines, why: "QEMU tells of the failure twice"},
		{args: []string{"snapshot", "-l", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"resize", "-f", "raw", "rbd:rbd/IMG", "20M"}},
		{args: []string{"snapshot", "-a", "one", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"info", "rbd:rbd/IMG"}},
		{args: []string{"snapshot", "-a", "none", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"snapshot", "-d", "none", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"snapshot", "-d", "one", "rbd:rbd/IMG"}, want: lines, why: "the warning about a probed format"},
		{args: []string{"resize", "-f", "raw", "rbd:rbd/IMG", "1M"}},
		{args: []string{"resize", "--shrink", "-f", "raw", "rbd:rbd/IMG", "1M"}},
		{args: []string{"resize", "--preallocation=full", "-f", "raw", "rbd:rbd/IMG", "2M"}},
		{args: []string{"convert", "-n", "-O", "raw", "plain", "rbd:rbd/plain@old"}},
		{args: []string{"convert", "-O", "raw", "plain", "rbd:rbd/plain"}},
		{args: []string{"create", "-f", "raw", "-o", "help", "rbd:rbd/x"}},
		{args: []string{"create", "-f", "raw", "-o", "cluster_size=5000", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "cluster_size=2048", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=full", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "encrypt.format=luks3", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "encrypt.format=luks2", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "encrypt.format=luks2,encrypt.key-secret=s", "rbd:rbd/x", "1M"}},
		{args: []string{"create", "-f", "raw", "rbd:rbd/x@y", "1M"}, want: fails, why: "QEMU says something only where the image exists"},
		{args: []string{"info", "rbd:nopool/x"}},
		{args: []string{"info", "rbd:rbd/none"}},
		{args: []string{"info", "rbd:rbd/none/x"}},
		{args: []string{"info", "rbd:rbd"}},
		{args: []string{"info", "rbd:"}},
		{args: []string{"info", "rbd:rbd/x:conf"}},
		{args: []string{"info", "rbd:rbd/x:conf=/none"}},
		{args: []string{"info", "rbd:rbd/x:nosuch=1"}},
		{args: []string{"info", option("")}},
		{args: []string{"info", option(`,"namespace":"ns"`)}},
		{args: []string{"info", option(`,"foo":"1"`)}},
		{args: []string{"info", option(`,"auth-client-required":["none"]`)}},
		{args: []string{"info", option(`,"auth-client-required":["x"]`)}, want: fails, why: "QEMU names the parameter 'null'"},
		{args: []string{"info", option(`,"server":[{"host":"127.0.0.1"}]`)}},
		{args: []string{"info", option(`,"key-secret":"s"`)}},
		{args: []string{"info", option(`,"key-secret":"s","password-secret":"t"`)}},
		{args: []string{"info", option(`,"encrypt":{"format":"x"}`)}},
		{args: []string{"info", option(`,"encrypt":{"format":"luks2"}`)}},
		{args: []string{"info", "--object", "secret,id=s,data=x", option(`,"encrypt":{"format":"luks2","key-secret":"s"}`)}},
		{args: []string{"info", `json:{"driver":"rbd","pool":"rbd"}`}},
		{args: []string{"info", `json:{"driver":"raw","file":{"driver":"rbd","filename":"rbd:rbd/plain"}}`}},
	} {
		run := func(program, image string) outcome {
			args := make([]string, len(l.args))
			for k, a := range l.args {
				args[k] = strings.ReplaceAll(a, "IMG", image)
			}
			o := runIn(t, dir, program, args...)
			o.stdout, o.stderr = strings.ReplaceAll(o.stdout, image, "IMG"), strings.ReplaceAll(o.stderr, image, "IMG")
			return o
		}
		// Those that change an image need each other.
		if changes := strings.Contains(strings.Join(l.args, " "), "IMG"); !testkit.Long() && (changes || i%8 != 0) || !changes && i%2 != 0 && testkit.Count(0) == 0 {
			continue
		}
		theirs, ours := run(tools.img, "image-theirs"), run(tools.ours, "image-ours")
		last := func(s string) string { // the line that tells of the failure
			all := strings.Split(strings.TrimSpace(s), "\n")
			if line := all[len(all)-1]; strings.HasPrefix(line, "qemu-img: ") {
				return line
			}
			return ""
		}
		switch {
		case l.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)),
			l.want == lines && (theirs.code != ours.code || last(theirs.stderr) != last(ours.stderr) || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v (%s):\n%+v\nwant\n%+v", l.args, l.why, ours, theirs)
		case l.want == fails && (ours.code == 0 || ours.stderr == ""):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		}
	}

	// What each writes, the other reads.
	want := testkit.Run(t, "cat", at("plain"))
	for i, w := range []struct {
		write, read string
		args        []string
	}{
		{tools.ours, tools.img, []string{"-O", "raw"}},
		{tools.img, tools.ours, []string{"-O", "raw", "-o", "cluster_size=64k"}},
		{tools.ours, tools.img, []string{"-O", "qcow2"}},
		{tools.img, tools.ours, []string{"-O", "qcow2"}},
	} {
		if i > 1 && !testkit.Long() {
			break
		}
		image := fmt.Sprintf("rbd:rbd/copy%d", i)
		testkit.Run(t, w.write, append(append([]string{"convert", "-f", "qcow2"}, w.args...), at("s.qcow2"), image)...)
		back := filepath.Join(t.TempDir(), "back")
		testkit.Run(t, w.read, "convert", "-f", w.args[1], "-O", "raw", image, back)
		if testkit.Run(t, "cat", back) != want {
			t.Errorf("%s %v: another disk", w.write, w.args)
		}
	}
	t.Run("secret", func(t *testing.T) {
		const key = "AQDL1cVmeUNlEhAAXT3MmBRXQSVMhGA7iCHYZA=="
		for _, args := range [][]string{{"info", "rbd:rbd/plain:key=" + key}, {"info", "rbd:rbd/none:key=" + key},
			{"info", "--object", "secret,id=k,data=" + key, option(`,"key-secret":"k"`)}} {
			o := runIn(t, dir, tools.ours, args...)
			text := o.stdout + o.stderr
			// The name that was given is repeated in an error, as it is.
			if strings.Contains(strings.ReplaceAll(text, "'"+args[1]+"'", ""), key) {
				t.Errorf("%v shows the key: %+v", args, o)
			}
		}
	})
	t.Run("faults", func(t *testing.T) {
		if !testkit.Long() {
			t.Skip("COWL_LONG is not set")
		}
		rbdFaults(t, tools, c)
	})
}

// rbdFaults has the cluster or the second program fail while a disk is copied.
func rbdFaults(t *testing.T, tools cliBinaries, c *ceph.Cluster) {
	src := filepath.Join(t.TempDir(), "src")
	p := make([]byte, 64<<20)
	testkit.Fill(testkit.Rand(1), p)
	if err := os.WriteFile(src, p, 0o644); err != nil {
		t.Fatal(err)
	}
	// copying copies, does something in the middle, and returns what is printed of a failure.
	memory := 0 // the most that one had, in KiB
	copying := func(image string, middle func(cmd *exec.Cmd)) (string, error) {
		cmd := exec.Command(tools.ours, "convert", "-p", "-r", "32M", "-f", "raw", "-O", "raw", src, "rbd:rbd/"+image)
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
		return messages.String(), err
	}
	text, err := copying("paused", func(*exec.Cmd) {
		c.Pause(t)
		time.AfterFunc(time.Second, func() { c.Continue(t) })
	})
	if err != nil || text != "" {
		t.Errorf("the store paused: %v: %s", err, text)
	}
	if memory == 0 || memory > 96<<10 {
		t.Errorf("%d KiB of memory", memory)
	}
	back := filepath.Join(t.TempDir(), "back")
	testkit.Run(t, tools.img, "convert", "-f", "raw", "-O", "raw", "rbd:rbd/paused", back)
	if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, p) {
		t.Errorf("another disk, %v", err)
	}
	text, err = copying("killed", func(cmd *exec.Cmd) { killChild(t, cmd) })
	if err == nil || !strings.Contains(text, "The program cowl-native for disks of Ceph ended before its time: signal: killed") {
		t.Errorf("the program killed: %v: %s", err, text)
	}
	began := time.Now()
	defer testkit.HeedSignals()()
	text, err = copying("interrupted", func(cmd *exec.Cmd) {
		c.Pause(t)
		began = time.Now()
		_ = cmd.Process.Signal(os.Interrupt)
	})
	if took := time.Since(began); err == nil || took > time.Minute || !strings.HasPrefix(text, "qemu-img: Interrupted") {
		t.Errorf("interrupted: %v after %v: %s", err, took, text)
	}
	c.Continue(t)

	env := os.Getenv("COWL_NATIVE")
	t.Setenv("COWL_NATIVE", filepath.Join(t.TempDir(), "none"))
	if o := runIn(t, t.TempDir(), tools.ours, "info", "rbd:rbd/plain"); o.code != 1 || !strings.Contains(o.stderr, "Starting the program ") || strings.Count(o.stderr, "\n") != 1 {
		t.Errorf("without the program: %+v", o)
	}
	t.Setenv("COWL_NATIVE", env)
	libraries, err := filepath.Glob("/usr/lib/*/librbd.so.1")
	if err != nil || len(libraries) == 0 {
		t.Skip("the library is elsewhere")
	}
	o := runIn(t, t.TempDir(), "unshare", "--mount", "sh", "-c", `mount --bind /dev/null "$1" && exec "$2" info rbd:rbd/plain`, "sh", libraries[0], tools.ours)
	if !strings.Contains(o.stderr, "mount") && (o.code != 1 || !strings.Contains(o.stderr, "need the library librbd.so.1, which cannot be loaded: install the package librbd1") || strings.Count(o.stderr, "\n") != 1) {
		t.Errorf("without the library: %+v", o)
	}
}

// peakMemory is the most memory that a process had so far, in KiB, 0 if it is gone.
func peakMemory(pid int) (kib int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
		}
	}
	return kib
}

// killChild kills the second program of a command.
func killChild(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		more, _ := os.ReadFile(task)
		b = append(append(b, ' '), more...)
	}
	killed := false
	for _, field := range strings.Fields(string(b)) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		killed = syscall.Kill(pid, syscall.SIGKILL) == nil || killed
	}
	if !killed {
		t.Error("there is no second program")
	}
}
