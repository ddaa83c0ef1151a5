package differential

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// TestIncusServer imports images into a server of Incus that it starts: $COWL_INCUSD, or
// the one that is installed. The server checks the fingerprints.
func TestIncusServer(t *testing.T) {
	testkit.Root(t)
	daemon := os.Getenv("COWL_INCUSD")
	if daemon == "" {
		daemon = "/usr/libexec/incus/incusd"
	}
	if _, err := os.Stat(daemon); err != nil {
		t.Skip("incusd is not installed, and $COWL_INCUSD does not name it")
	}
	program, dir := packer(t)
	home, err := os.MkdirTemp("", "incusd") // short, as paths of sockets must be
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("INCUS_DIR", home)
	cmd := exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-c", `mount -t cgroup2 none /sys/fs/cgroup 2>/dev/null; exec "$0" --logfile "$INCUS_DIR/log"`, daemon)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-ended
		os.RemoveAll(home)
	})
	for end := time.Now().Add(time.Minute); ; {
		if c, err := net.Dial("unix", filepath.Join(home, "unix.socket")); err == nil {
			c.Close()
			break
		}
		select {
		case <-ended:
			t.Skip("incusd does not run here")
		case <-time.After(50 * time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("incusd does not listen")
		}
	}
	rootArchive(t, dir, richRoot(t))
	ours := filepath.Join(filepath.Dir(program), "cowl")
	if err := os.Symlink(program, ours); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"--compression gzip", "--compression zstd", "--compression xz", "--compression lz4", "--compression lzma", "--type unified --compression gzip", "--type unified --compression none",
		"--type unified --compression xz", "--vm --compression zstd", "--vm --type unified --compression zstd"} {
		alias := strings.ReplaceAll(strings.ReplaceAll(args, " ", "."), "--", "")
		out := succeed(t, dir, ours, append(strings.Fields("pack-incus d.yaml root.tar out --output json --import-into-incus={{image.distribution}}-"+alias), strings.Fields(args)...)...)
		var r struct{ Fingerprint string }
		if err := json.Unmarshal([]byte(out), &r); err != nil {
			t.Fatal(err)
		}
		// the second time the server has it
		if o := runIn(t, dir, ours, append(strings.Fields("pack-incus d.yaml root.tar out --import-into-incus=tiny-"+alias), strings.Fields(args)...)...); o.code != 0 || !strings.Contains(o.stderr, "the server has an image with the fingerprint "+r.Fingerprint+" already") {
			t.Errorf("%s: %+v", args, o)
		}
	}
}
