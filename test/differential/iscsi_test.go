package differential

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/tgt"
)

// TestISCSI compares what both programs say of units of an iSCSI target, and what they copy.
func TestISCSI(t *testing.T) {
	tools := needCLI(t)
	if out, err := exec.Command(tools.img, "info", "iscsi://127.0.0.1:1/x/1").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no iscsi driver (qemu-block-extra)")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", at("s.qcow2"), "16M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -P 8 9M 1M", at("s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", at("s.qcow2"), at("plain"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", at("s.qcow2"), at("large"))
	testkit.Run(t, "cp", "--sparse=never", at("s.qcow2"), at("image"))
	for name, size := range map[string]int64{"image": 16 << 20, "thin": 16 << 20, "cd": 8 << 20} {
		f, err := os.OpenFile(at(name), os.O_CREATE|os.O_RDWR, 0o644)
		if err == nil {
			err = f.Truncate(size)
		}
		if err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	s := tgt.Start(t, tgt.Unit{Number: 1, Path: at("plain")}, tgt.Unit{Number: 2, Path: at("thin"), Thin: true},
		tgt.Unit{Number: 3, Path: at("large"), Block: 4096}, tgt.Unit{Number: 4, Path: at("image")},
		tgt.Unit{Number: 5, Path: at("plain"), ReadOnly: true}, tgt.Unit{Number: 6, Path: at("cd"), Type: "cd"}, tgt.Unit{Number: 300, Path: at("plain"), ReadOnly: true})
	chap := tgt.New(t)
	chap.User, chap.Secret = "joe", "secret12chars"
	chap.Run(t, tgt.Unit{Number: 1, Path: at("plain"), ReadOnly: true})
	options := func(s *tgt.Server, unit int, more string) string {
		return fmt.Sprintf("driver=iscsi,transport=tcp,portal=%s,target=%s,lun=%d%s", s.Address, tgt.Name, unit, more)
	}
	joe := []string{"--object", "secret,id=pw,data=secret12chars"}
	const (
		same   = iota
		fails  // both, in other words
		better // QEMU fails
		words  // both work, and the standard error is another one
	)
	type line struct {
		args []string
		want int
		why  string
	}
	lines := []line{
		{args: []string{"info", s.URL(1)}},
		{args: []string{"info", s.URL(2)}},
		{args: []string{"info", "--output=json", s.URL(3)}},
		{args: []string{"info", s.URL(4)}},
		{args: []string{"info", s.URL(5)}},
		{args: []string{"info", s.URL(6)}, want: words, why: "a warning about MODE SENSE says that it is one"},
		{args: []string{"info", s.URL(300)}, want: better, why: "libiscsi has no flat addressing"},
		{args: []string{"info", s.URL(0)}, want: words, why: "a warning about MODE SENSE says that it is one"},
		{args: []string{"info", s.URL(1) + "?foo=3"}},
		{args: []string{"map", s.URL(1)}},
		{args: []string{"map", "--output=json", s.URL(1)}},
		{args: []string{"map", "--output=json", s.URL(2)}},
		{args: []string{"map", "--output=json", s.URL(3)}},
		{args: []string{"map", "--output=json", s.URL(4)}},
		{args: []string{"map", s.URL(4)}},
		{args: []string{"check", s.URL(4)}},
		{args: []string{"check", s.URL(1)}},
		{args: []string{"measure", "-O", "qcow2", s.URL(2)}},
		{args: []string{"measure", "-O", "qcow2", s.URL(3)}},
		{args: []string{"compare", s.URL(1), s.URL(3)}},
		{args: []string{"compare", s.URL(4), "plain"}},
		{args: []string{"compare", "-f", "raw", "-F", "raw", s.URL(4), "plain"}},
		{args: []string{"info", "--image-opts", options(s, 1, "")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",timeout=30,initiator-name=iqn.2026-01.test:i")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",header-digest=none")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",header-digest=CRC32C")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",bar=1")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",user=joe")}},
		{args: []string{"info", "--image-opts", options(s, 1, ",user=joe,password-secret=none")}},
		{args: append(joe, "--image-opts", options(s, 1, ",user=joe,password=x,password-secret=pw"))},
		{args: append(joe, "--image-opts", options(chap, 1, ",user=joe,password-secret=pw"))},
		{args: append(joe, "--image-opts", options(chap, 1, ",user=jim,password-secret=pw"))},
		{args: []string{"info", chap.URL(1)}},
		{args: []string{"info", "--image-opts", "driver=iscsi,transport=tcp"}},
		{args: []string{"info", "--image-opts", "driver=iscsi,transport=foo,portal=x,target=y"}},
		{args: []string{"info", "--image-opts", "driver=iscsi,transport=tcp,portal=x,target=y,lun=abc"}},
		{args: []string{"info", fmt.Sprintf("iscsi://%s/iqn.none/1", s.Address)}},
		{args: []string{"info", s.URL(9)}},
		{args: []string{"info", fmt.Sprintf("iscsi://%s/%s", s.Address, tgt.Name)}},
		{args: []string{"info", s.URL(1) + "/2"}},
		{args: []string{"info", s.URL(1) + "x"}},
		{args: []string{"info", "iscsi:x"}},
		{args: []string{"info", "iscsi://127.0.0.1:1/x/1"}, want: fails, why: "the reason"},
		{args: []string{"info", "iser://127.0.0.1:1/x/1"}, want: fails, why: "no RDMA"},
		{args: []string{"info", "iscsi://nohost.invalid/x/1"}, want: fails, why: "the reason"},
		{args: []string{"create", "-f", "raw", s.URL(2), "1M"}},
		{args: []string{"create", "-f", "raw", s.URL(2), "32M"}},
		{args: []string{"create", "-f", "raw", s.URL(5), "1M"}},
		{args: []string{"resize", "-f", "raw", s.URL(2), "32M"}},
		{args: []string{"resize", "--shrink", "-f", "raw", s.URL(2), "1M"}},
		{args: []string{"convert", "-n", "-O", "raw", "s.qcow2", s.URL(5)}},
		{args: []string{"check", "-f", "qcow2", s.URL(1)}},
		{args: []string{"info", strings.Replace(chap.URL(1), "://", "://joe%bad@", 1)}, want: fails, why: "the password is not shown"},
	}
	for i, l := range lines {
		if !testkit.Sample(i, 3) {
			continue
		}
		if l.args[0] == "--object" {
			l.args = append([]string{"info"}, l.args...)
		}
		theirs, ours := runIn(t, dir, tools.img, l.args...), runIn(t, dir, tools.ours, l.args...)
		switch {
		case l.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v:\n%+v\nwant\n%+v", l.args, ours, theirs)
		case l.want == fails && (theirs.code == 0 || ours.code != theirs.code || ours.stderr == ""):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		case l.want == better && (theirs.code == 0 || ours.code != 0):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		case l.want == words && (theirs.code != ours.code || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		}
		if strings.Contains(ours.stdout+ours.stderr, "%bad@") {
			t.Errorf("%v shows the password: %+v", l.args, ours)
		}
	}

	// What each writes, the other reads.
	want := testkit.Run(t, "cat", at("plain"))
	for i, c := range []struct {
		write, read string
		args        []string
		unit        int
	}{
		{tools.ours, tools.img, []string{"convert", "-n", "-f", "qcow2", "-O", "raw"}, 2},
		{tools.img, tools.ours, []string{"convert", "-n", "-f", "qcow2", "-O", "raw"}, 3},
		{tools.ours, tools.img, []string{"convert", "-f", "qcow2", "-O", "qcow2"}, 2},
		{tools.ours, tools.img, []string{"convert", "-n", "-f", "qcow2", "-O", "raw"}, 3},
		{tools.img, tools.ours, []string{"convert", "-f", "qcow2", "-O", "qcow2"}, 2},
	} {
		if i > 2 && !testkit.Long() {
			break
		}
		for _, name := range []string{"thin", "large"} {
			fillFile(t, at(name), 0xa5)
		}
		if o := runIn(t, dir, c.write, append(c.args, "s.qcow2", s.URL(c.unit))...); o.code != 0 || o.stderr != "" {
			t.Errorf("%s %v: %+v", c.write, c.args, o)
		}
		back := filepath.Join(t.TempDir(), "back")
		if o := runIn(t, dir, c.read, "convert", "-f", c.args[len(c.args)-1], "-O", "raw", s.URL(c.unit), back); o.code != 0 {
			t.Errorf("%s: %+v", c.read, o)
		}
		if got := testkit.Run(t, "cat", back); got != want {
			t.Errorf("%s %v: another disk", c.write, c.args)
		}
	}
	o := runIn(t, dir, tools.ours, "info", "--object", "secret,id=pw,data=secret12chars", "--iscsi", "user=joe,password-secret=pw", chap.URL(1))
	if o.code != 0 || strings.Contains(o.stdout, "secret12chars") {
		t.Errorf("--iscsi: %+v", o)
	}
}

// fillFile overwrites a file in place.
func fillFile(t *testing.T, name string, with byte) {
	t.Helper()
	st, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size())
	for i := range b {
		b[i] = with
	}
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.Write(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// TestISCSIKilled kills the target while a disk is copied to it, and starts it again: the
// copy ends well.
func TestISCSIKilled(t *testing.T) {
	tools := needCLI(t)
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "src"), filepath.Join(dir, "dst")
	p := make([]byte, 48<<20)
	testkit.Fill(testkit.Rand(1), p)
	if err := os.WriteFile(src, p, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dst, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(dst, int64(len(p))); err != nil {
		t.Fatal(err)
	}
	s := tgt.Start(t, tgt.Unit{Number: 1, Path: dst})
	cmd := exec.Command(tools.ours, "convert", "-n", "-p", "-r", "64M", "-f", "raw", "-O", "raw", src, s.URL(1))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var messages strings.Builder
	cmd.Stderr = &messages
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	killed := false
	b := make([]byte, 4096)
	for {
		n, err := out.Read(b)
		if err != nil {
			break
		}
		if text := string(b[:n]); !killed && strings.Count(text, "%)") > strings.Count(text, "(0.00/") {
			killed = true
			s.Kill()
			s.Restart(t)
		}
	}
	if err := cmd.Wait(); err != nil || !killed {
		t.Fatalf("%v, killed %t: %s", err, killed, messages.String())
	}
	if got := testkit.Run(t, "cat", dst); got != string(p) {
		t.Error("another disk")
	}
}
