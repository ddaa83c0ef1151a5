package differential

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/internal/testkit/ganesha"
)

// TestNFS compares what both programs say of files of an NFS server, and what they copy.
func TestNFS(t *testing.T) {
	tools := needCLI(t)
	if out, err := exec.Command(tools.img, "info", "nfs://127.0.0.1/x").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no nfs driver (qemu-block-extra)")
	}
	if !testkit.WithHosts(t, "127.0.0.1 localhost\n") {
		return
	}
	dir := t.TempDir()
	s := ganesha.Start(t, t.TempDir(), "Squash = No_Root_Squash;")
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", filepath.Join(dir, "s.qcow2"), "8M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -z 4M 1M", filepath.Join(dir, "s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "s.raw"))
	for from, to := range map[string]string{"s.qcow2": "s.qcow2", "s.raw": "s.raw"} {
		testkit.Run(t, "cp", filepath.Join(dir, from), filepath.Join(s.Dir, to))
	}
	testkit.Run(t, "cp", filepath.Join(dir, "s.qcow2"), filepath.Join(s.Dir, "a b"))
	if err := os.WriteFile(filepath.Join(s.Dir, "odd"), make([]byte, 1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.Dir, "secret"), make([]byte, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	url := func(name string) string { return "nfs://127.0.0.1" + s.Dir + "/" + name }
	options := fmt.Sprintf("driver=qcow2,file.driver=nfs,file.server.type=inet,file.server.host=127.0.0.1,file.path=%s/s.qcow2", s.Dir)
	const (
		same  = iota
		fails // both, in other words
		better
	)
	type line struct {
		args []string
		want int
		why  string
	}
	lines := []line{
		{args: []string{"info", url("s.qcow2")}},
		{args: []string{"info", "--output=json", url("s.qcow2")}},
		{args: []string{"info", url("s.raw")}},
		{args: []string{"info", "-f", "raw", url("odd")}},
		{args: []string{"info", url("a%20b")}},
		{args: []string{"info", url("s.qcow2") + "?uid=0&gid=0"}},
		{args: []string{"info", url("s.qcow2") + "?uid=7"}},
		{args: []string{"info", url("s.qcow2") + "?gid=8"}},
		{args: []string{"info", url("s.qcow2") + "?uid=7&gid=8"}},
		{args: []string{"info", url("s.qcow2") + "?tcp-syncnt=2"}},
		{args: []string{"info", url("s.qcow2") + "?readahead=131072"}},
		{args: []string{"info", url("s.qcow2") + "?readahead=5000000"}},
		{args: []string{"info", url("s.qcow2") + "?pagecache=9000"}},
		{args: []string{"info", url("s.qcow2") + "?foo=1"}},
		{args: []string{"info", url("s.qcow2") + "?foo=x"}},
		{args: []string{"info", url("s.qcow2") + "?uid=x"}},
		{args: []string{"info", url("s.qcow2") + "?uid="}},
		{args: []string{"compare", "-T", "none", url("s.qcow2") + "?readahead=131072", "s.raw"}},
		{args: []string{"compare", "-T", "none", url("s.qcow2") + "?pagecache=64", "s.raw"}},
		{args: []string{"map", url("s.qcow2")}},
		{args: []string{"map", "--output=json", url("s.qcow2")}},
		{args: []string{"map", "--output=json", "-f", "raw", url("s.raw")}},
		{args: []string{"check", url("s.qcow2")}},
		{args: []string{"measure", "-O", "qcow2", url("s.qcow2")}},
		{args: []string{"measure", "-O", "qcow2", "-f", "raw", url("s.raw")}},
		{args: []string{"compare", url("s.qcow2"), "s.raw"}},
		{args: []string{"compare", url("s.qcow2"), url("s.raw")}},
		{args: []string{"info", "--image-opts", options}},
		{args: []string{"info", "--image-opts", options + ",file.user=7,file.group=8"}},
		{args: []string{"info", "--image-opts", options + ",file.user=x"}, want: fails, why: "words of numbers"},
		{args: []string{"info", "--image-opts", options + ",file.foo=1"}},
		{args: []string{"info", "--image-opts", options + ",file.server.foo=1"}},
		{args: []string{"info", "--image-opts", "driver=nfs,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=nfs,server.host=127.0.0.1,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=nfs,server.type=inet,path=/x"}},
		{args: []string{"info", "--image-opts", "driver=nfs,server.type=unix,server.host=127.0.0.1,path=/x"}, want: fails, why: "the name of the option"},
		{args: []string{"info", "--image-opts", "driver=nfs,server.type=inet,server.host=127.0.0.1"}},
		{args: []string{"info", "--image-opts", "driver=nfs,server.type=inet,server.host=127.0.0.1,path=x"}},
		{args: []string{"info", url("none")}},
		{args: []string{"info", "nfs://127.0.0.1/none/x"}},
		{args: []string{"info", "nfs://127.0.0.1"}},
		{args: []string{"info", "nfs:///x"}},
		{args: []string{"info", "nfs://nohost.invalid/x"}, want: fails, why: "QEMU does not say why"},
		{args: []string{"info", "nfs://127.0.0.1:1/x"}, want: fails, why: "QEMU does not use the port"},
		{args: []string{"info", url("secret") + "?uid=1000"}, want: fails, why: "ours says who asks"},
		{args: []string{"info", url("")}, want: fails, why: "a directory"},
		{args: []string{"info", "nfs://127.0.0.1/export/s.qcow2?version=4"}, want: better, why: "version 4"},
		{args: []string{"create", "-f", "raw", "nfs://127.0.0.1/none/new", "1M"}},
		{args: []string{"create", "-f", "raw", "-o", "preallocation=full", url("new"), "1M"}, want: fails, why: "words of the option"},
	}
	both := func(l line) {
		t.Helper()
		theirs, ours := runIn(t, dir, tools.img, l.args...), runIn(t, dir, tools.ours, l.args...)
		switch {
		case l.want == same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v:\n%+v\nwant\n%+v", l.args, ours, theirs)
		case l.want == fails && (theirs.code == 0 || ours.code != theirs.code || ours.stderr == ""):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		case l.want == better && (theirs.code == 0 || ours.code != 0):
			t.Errorf("%v (%s):\n%+v\nQEMU\n%+v", l.args, l.why, ours, theirs)
		}
	}
	for i, l := range lines {
		if testkit.Sample(i, 3) {
			both(l)
		}
	}

	// What each writes, the other reads; and so with version 4 of ours.
	want := readAll(t, filepath.Join(dir, "s.raw"))
	four := func(name string) string { return "nfs://127.0.0.1/export/" + name + "?version=4" }
	for i, c := range []struct {
		write, read string
		name        func(string) string
		args        []string
	}{
		{tools.ours, tools.img, url, []string{"convert", "-f", "qcow2", "-O", "raw"}},
		{tools.img, tools.ours, url, []string{"convert", "-f", "qcow2", "-O", "raw"}},
		{tools.ours, tools.ours, four, []string{"convert", "-f", "qcow2", "-O", "qcow2"}},
		{tools.ours, tools.img, url, []string{"convert", "-f", "qcow2", "-O", "qcow2"}},
		{tools.img, tools.ours, url, []string{"convert", "-f", "qcow2", "-O", "qcow2", "-c"}},
	} {
		if i > 2 && !testkit.Long() {
			break
		}
		name := c.name(fmt.Sprintf("out%d", i))
		if o := runIn(t, dir, c.write, append(c.args, "s.qcow2", name)...); o.code != 0 || o.stderr != "" {
			t.Errorf("%s %v: %+v", c.write, c.args, o)
		}
		back := filepath.Join(t.TempDir(), "back")
		if o := runIn(t, dir, c.read, "convert", "-f", c.args[4], "-O", "raw", name, back); o.code != 0 {
			t.Errorf("%s: %+v", c.read, o)
		}
		if !bytes.Equal(readAll(t, back), want) {
			t.Errorf("%s %v: another disk", c.write, c.args)
		}
	}
	for _, l := range []line{
		{args: []string{"create", "-q", "-f", "raw", url("new.raw"), "1000"}},
		{args: []string{"create", "-q", "-f", "qcow2", url("new.qcow2"), "3M"}},
		{args: []string{"resize", "-q", "-f", "raw", url("new.raw"), "+1M"}},
		{args: []string{"resize", "-q", "--shrink", "-f", "raw", url("new.raw"), "4096"}},
		{args: []string{"resize", "-q", "-f", "qcow2", url("new.qcow2"), "+1M"}},
		{args: []string{"snapshot", "-c", "a", url("new.qcow2")}},
		{args: []string{"create", "-q", "-f", "raw", url("new.raw"), "3k"}}, // over what is there
		{args: []string{"convert", "-n", "-f", "qcow2", "-O", "raw", "s.qcow2", url("out0")}},
	} {
		if o := runIn(t, dir, tools.ours, l.args...); o.code != 0 || o.stderr != "" {
			t.Errorf("%v: %+v", l.args, o)
		}
	}
	if st, err := os.Stat(filepath.Join(s.Dir, "new.raw")); err != nil || st.Size() != 3072 || st.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", st, err)
	}
	both(line{args: []string{"info", "-f", "raw", url("new.raw")}})
	if !bytes.Equal(readAll(t, filepath.Join(s.Dir, "out0")), want) {
		t.Error("convert -n: another disk")
	}
	sparse4(t, tools.ours, s.Dir)
}

func readAll(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sparse4: with version 4.2 holes are known, and made.
func sparse4(t *testing.T, program, dir string) {
	t.Helper()
	const size = 64 << 20
	data := make([]byte, 1<<20)
	_, _ = rand.Read(data)
	f, err := os.Create(filepath.Join(dir, "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err = f.WriteAt(data, 8<<20); err == nil {
		err = f.Truncate(size)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	const name = "nfs://127.0.0.1/export/sparse?version=4.2"
	want := `[{ "start": 0, "length": 8388608, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false, "offset": 0},
{ "start": 8388608, "length": 1048576, "depth": 0, "present": true, "zero": false, "data": true, "compressed": false, "offset": 8388608},
{ "start": 9437184, "length": 57671680, "depth": 0, "present": true, "zero": true, "data": false, "compressed": false, "offset": 9437184}]
`
	if o := runIn(t, dir, program, "map", "-f", "raw", "--output=json", name); o.stdout != want {
		t.Errorf("%+v", o)
	}
	if o := runIn(t, dir, program, "convert", "-f", "raw", "-O", "raw", name, "nfs://127.0.0.1/export/copy?version=4"); o.code != 0 {
		t.Errorf("%+v", o)
	}
	if !bytes.Equal(readAll(t, filepath.Join(dir, "copy")), readAll(t, filepath.Join(dir, "sparse"))) {
		t.Error("another disk")
	}
}
