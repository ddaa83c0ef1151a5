//go:build wine

package windows

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// content is a disk with data and holes.
func content() []byte {
	data := make([]byte, 8<<20)
	r := rand.NewChaCha8([32]byte{7})
	for _, at := range []int{0, 3 << 20, 7<<20 + 512} {
		_, _ = r.Read(data[at : at+300_000])
	}
	return data
}

// TestImages makes, converts and checks images of each writable format, which QEMU reads.
func TestImages(t *testing.T) {
	m := newMachine(t)
	data := content()
	m.write("in.raw", data)
	want := sha256.Sum256(data)
	for _, format := range []string{"raw", "qcow2", "qcow", "qed", "vdi", "vmdk", "vpc", "vhdx", "parallels"} {
		name := "out." + format
		m.cowl("convert", "-f", "raw", "-O", format, "in.raw", name)
		info := m.cowl("info", "-f", format, name)
		for _, part := range []string{"file format: " + format + "\n", "disk size: unavailable\n"} {
			if !strings.Contains(info, part) {
				t.Errorf("info of %s: %s, want %q", format, info, part)
			}
		}
		if format != "raw" && format != "qcow" {
			m.cowl("check", "-f", format, name)
		}
		m.cowl("convert", "-f", format, "-O", "raw", name, "back.raw")
		for _, file := range []string{"back.raw", byQEMU(t, m, format, name)} {
			back, err := os.ReadFile(filepath.Join(m.dir, file))
			if err != nil {
				t.Fatal(err)
			}
			if len(back) < len(data) || sha256.Sum256(back[:len(data)]) != want || len(bytes.Trim(back[len(data):], "\x00")) > 0 {
				t.Errorf("%s by way of %s is another disk", file, format)
			}
		}
	}
	m.cowl("create", "-q", "-f", "raw", "sparse.raw", "1G")
	var st syscall.Stat_t
	if err := syscall.Stat(filepath.Join(m.dir, "sparse.raw"), &st); err != nil || st.Size != 1<<30 || st.Blocks > 64 {
		t.Errorf("sparse.raw: %d bytes, %d blocks, %v", st.Size, st.Blocks, err)
	}
	m.cowl("create", "-q", "-f", "qcow2", "-b", "out.qcow2", "-F", "qcow2", "overlay.qcow2")
	m.cowl("compare", "-f", "qcow2", "-F", "raw", "overlay.qcow2", "in.raw")
	m.cowl("snapshot", "-c", "one", "overlay.qcow2")
	m.cowl("resize", "-q", "overlay.qcow2", "16M")
	if out := m.cowl("bench", "-c", "10", "-f", "qcow2", "overlay.qcow2"); !strings.Contains(out, "Run completed in") {
		t.Error(out)
	}
}

// byQEMU has QEMU read an image, and returns the name of what it wrote.
func byQEMU(t *testing.T, m *machine, format, name string) string {
	t.Helper()
	testkit.Run(t, testkit.Tool(t, "qemu-img"), "convert", "-f", format, "-O", "raw", filepath.Join(m.dir, name), filepath.Join(m.dir, "theirs.raw"))
	return "theirs.raw"
}

// TestNames opens files by the names that Windows has for them.
func TestNames(t *testing.T) {
	m := newMachine(t)
	drive := `Z:\root\` + filepath.Base(m.dir)
	long := strings.Repeat("x", 100)
	if err := os.MkdirAll(filepath.Join(m.dir, long, long, long), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{
		"plain.qcow2", `.\with space.qcow2`, drive + `\absolute.qcow2`, `z:/root/` + filepath.Base(m.dir) + "/slashes.qcow2",
		`\\?\` + drive + `\verbatim.qcow2`, `ümläut – 日本.qcow2`, long + `\` + long + `\` + long + `\deep.qcow2`, `\\.\` + drive + `\device.qcow2`,
	} {
		m.cowl("create", "-q", "-f", "qcow2", name, "1M")
		if info := m.cowl("info", name); !strings.HasPrefix(info, "image: "+name+"\nfile format: qcow2\n") {
			t.Errorf("%s: %s", name, info)
		}
		// A name in an image is one relative to it, with a drive or without.
		m.cowl("create", "-q", "-f", "qcow2", "-b", name, "-F", "qcow2", "over.qcow2")
		m.cowl("check", "-q", "over.qcow2")
	}
	for _, c := range []struct{ name, want string }{
		{`C:\nothing`, "Could not open 'C:\\nothing'"},
		{`Q:\x`, `Could not open 'Q:\x'`},
		{`q:`, "Could not open 'q:'"},
		{`\\.\PhysicalDrive7`, `Could not open '\\.\PhysicalDrive7'`},
		{`\\nowhere.invalid\share\x`, `Could not open '\\nowhere.invalid\share\x'`},
		{`nothing:x`, "Unknown protocol 'nothing'"},
	} {
		r := m.try("info", c.name)
		if r.code != 1 || !strings.Contains(r.out, c.want) || strings.Contains(r.out, "goroutine ") {
			t.Errorf("info %s: exit code %d: %s", c.name, r.code, r.out)
		}
	}
}

// TestServe serves a disk by NBD, which QEMU reads and writes, while its file is locked.
func TestServe(t *testing.T) {
	m := newMachine(t)
	m.write("in.raw", content())
	m.cowl("convert", "-f", "raw", "-O", "qcow2", "in.raw", "disk.qcow2")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	m.start("wine", "/root/cowl.exe", "nbd", "-t", "-f", "qcow2", "-b", "127.0.0.1", "-p", fmt.Sprint(port), "disk.qcow2")
	address := fmt.Sprintf("127.0.0.1:%d", port)
	m.until("the server", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	testkit.Run(t, testkit.Tool(t, "qemu-img"), "compare", "-f", "raw", "-F", "raw", "nbd://"+address, filepath.Join(m.dir, "in.raw"))
	testkit.Run(t, testkit.Tool(t, "qemu-io"), "-f", "raw", "-c", "write -P 9 1M 64k", "-c", "flush", "nbd://"+address)
	if r := m.try("resize", "disk.qcow2", "+1M"); r.code != 1 || !strings.Contains(r.out, "lock") && !strings.Contains(r.out, "sharing violation") {
		t.Errorf("a disk in use is resized: exit code %d: %s", r.code, r.out)
	}
	if r := m.try("info", "-U", "disk.qcow2"); r.code != 0 {
		t.Errorf("info -U: %s", r.out)
	}
	m.cowl("convert", "-f", "raw", "-O", "raw", "nbd://"+address, "copy.raw")
	copied, err := os.ReadFile(filepath.Join(m.dir, "copy.raw"))
	if err != nil || !bytes.Equal(copied[1<<20:1<<20+65536], bytes.Repeat([]byte{9}, 65536)) {
		t.Errorf("what was written is not there: %v", err)
	}
}

// TestInterrupt ends a long copy as Ctrl-C does.
func TestInterrupt(t *testing.T) {
	m := newMachine(t)
	m.cowl("create", "-q", "-f", "raw", "big.raw", "64G")
	cmd := m.start("wine", "/root/cowl.exe", "bench", "-w", "-c", "1000000000", "-f", "raw", "big.raw")
	m.until("writing", func() bool {
		var st syscall.Stat_t
		return syscall.Stat(filepath.Join(m.dir, "big.raw"), &st) == nil && st.Blocks > 64
	})
	if err := exec.Command("kill", "-INT", "--", fmt.Sprint(-cmd.Process.Pid)).Run(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { _ = cmd.Wait(); close(ended) }()
	m.until("its end", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	if code := cmd.ProcessState.ExitCode(); code != 1 {
		t.Errorf("it ended with %v, not by itself", cmd.ProcessState)
	}
}
