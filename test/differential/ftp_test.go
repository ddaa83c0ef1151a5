package differential

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// startVsftpd serves the files of a folder to everybody, and returns the port.
func startVsftpd(t *testing.T, root string) int {
	t.Helper()
	testkit.Root(t)
	program, err := exec.LookPath("vsftpd")
	if err != nil {
		t.Skip("vsftpd is not installed")
	}
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o755); err != nil {
		t.Fatal(err)
	}
	// Another program may take the port in between.
	for try := range 5 {
		port := freePorts(t, 1)[0]
		config := fmt.Sprintf("background=NO\nlisten=YES\nlisten_address=127.0.0.1\nlisten_port=%d\nanonymous_enable=YES\nno_anon_password=YES\nanon_root=%s\n"+
			"local_enable=NO\nwrite_enable=NO\nseccomp_sandbox=NO\nsecure_chroot_dir=%s\nftp_username=ftp\npasv_address=127.0.0.1\nxferlog_enable=NO\n", port, root, empty)
		file := filepath.Join(dir, "vsftpd.conf")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(program, file)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { defer close(ended); _ = cmd.Wait() }()
		t.Cleanup(func() { _ = cmd.Process.Kill(); <-ended })
		for running := true; running; {
			select {
			case <-ended:
				running = false
			case <-time.After(20 * time.Millisecond):
				if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
					c.Close()
					return port
				}
			}
		}
		t.Logf("try %d: vsftpd does not listen", try)
	}
	t.Fatal("vsftpd cannot be started")
	return 0
}

// TestFTP compares what both programs say of disks on an FTP server, and what they copy.
func TestFTP(t *testing.T) {
	tools := needCLI(t)
	if out, err := exec.Command(tools.img, "info", "ftp://127.0.0.1:1/x").CombinedOutput(); err != nil && strings.Contains(string(out), "Unknown protocol") {
		t.Skip("qemu-img has no ftp driver (qemu-block-extra)")
	}
	dir := t.TempDir()
	testkit.Run(t, tools.img, "create", "-q", "-f", "qcow2", filepath.Join(dir, "s.qcow2"), "8M")
	testkit.Run(t, "qemu-io", "-c", "write -P 7 100k 3M", "-c", "write -z 4M 1M", filepath.Join(dir, "s.qcow2"))
	testkit.Run(t, tools.img, "convert", "-c", "-O", "qcow2", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "c.qcow2"))
	testkit.Run(t, tools.img, "convert", "-O", "raw", filepath.Join(dir, "s.qcow2"), filepath.Join(dir, "s.raw"))
	for d := dir; d != "/" && d != os.TempDir(); d = filepath.Dir(d) { // the server reads as another user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"s.qcow2", "c.qcow2", "s.raw"} {
		if err := os.Chmod(filepath.Join(dir, name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	url := fmt.Sprintf("ftp://127.0.0.1:%d/", startVsftpd(t, dir))
	for _, c := range []struct {
		args []string
		same bool // or both fail, in other words
	}{
		{[]string{"info", url + "s.qcow2"}, true},
		{[]string{"info", "--output=json", url + "s.qcow2"}, true},
		{[]string{"info", url + "s.raw"}, true},
		{[]string{"map", "--output=json", url + "s.qcow2"}, true},
		{[]string{"map", "--output=json", url + "c.qcow2"}, true},
		{[]string{"check", url + "s.qcow2"}, true},
		{[]string{"compare", url + "s.qcow2", "s.raw"}, true},
		{[]string{"info", "--image-opts", "driver=qcow2,file.driver=ftp,file.url=" + url + "s.qcow2"}, true},
		{[]string{"info", url + "none"}, true},
		{[]string{"info", "--image-opts", "driver=ftp"}, true},
		{[]string{"info", "--image-opts", "driver=ftp,url=http://x/"}, true},
		{[]string{"info", "--image-opts", "driver=ftp,url=" + url + "s.raw,readahead=1000"}, true},
		{[]string{"create", "-f", "raw", url + "new", "1M"}, true},
		{[]string{"convert", "-n", "-O", "raw", "s.raw", url + "s.raw"}, true},
		{[]string{"info", strings.Replace(url, "://", "://joe:pass@", 1) + "s.raw"}, false},
		{[]string{"info", "ftp://127.0.0.1:1/x"}, false},
		{[]string{"info", "ftps://127.0.0.1:1/x"}, false},
	} {
		theirs, ours := runIn(t, dir, tools.img, c.args...), runIn(t, dir, tools.ours, c.args...)
		switch {
		case c.same && (theirs.code != ours.code || theirs.stderr != ours.stderr || !sameOutput(theirs.stdout, ours.stdout)):
			t.Errorf("%v:\n%+v\nwant\n%+v", c.args, ours, theirs)
		case !c.same && (theirs.code == 0 || ours.code != theirs.code || ours.stderr == ""):
			t.Errorf("%v:\n%+v\nQEMU\n%+v", c.args, ours, theirs)
		}
	}
	want := testkit.Run(t, "cat", filepath.Join(dir, "s.raw"))
	for _, args := range [][]string{{url + "s.qcow2"}, {url + "c.qcow2"}, {"-f", "raw", url + "s.raw"}} {
		out := filepath.Join(t.TempDir(), "out")
		o := runIn(t, dir, tools.ours, append(append([]string{"convert", "-O", "raw"}, args...), out)...)
		if got, err := os.ReadFile(out); err != nil || string(got) != want || o.code != 0 {
			t.Errorf("%v: another disk, %v: %+v", args, err, o)
		}
	}
}
