package endtoend

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cavaliergopher/cpio"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/test/endtoend/treehash"
)

// TestGuest boots a guest of QEMU's emulator from disks that cowl
// converted: it mounts the file system, reads every file, and writes one; then
// cowl and e2fsck check what the guest left.
func TestGuest(t *testing.T) {
	g := newGuest(t)
	for _, c := range []struct {
		name string
		args []string
	}{
		{"plain", nil},
		{"zlib", []string{"-c"}},
		{"zstd", []string{"-c", "-o", "compression_type=zstd"}},
		{"subclusters", []string{"-o", "extended_l2=on,cluster_size=128k"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			img := filepath.Join(g.dir, c.name+".qcow2")
			cowl(t, append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, c.args...), g.disk, img)...)
			g.boot(t, "format=qcow2,file="+img)
			g.check(t, img)
		})
	}
}

// guest is what a guest needs that reads all files of a disk and writes one.
type guest struct {
	emulator, fsck, kernel, initrd string
	dir                            string
	disk                           string // raw, with an ext4 file system
	want                           string // what the guest prints of the files
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{emulator: testkit.Tool(t, "qemu-system-x86_64"), fsck: testkit.Tool(t, "e2fsck"), dir: t.TempDir()}
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	g.kernel = kernels[0]
	tree := filepath.Join(goroot(t), "src", "net")
	g.disk = makeExt4(t, g.dir, tree, "128M")
	files, digest, err := treehash.Sum(tree)
	if err != nil {
		t.Fatal(err)
	}
	g.want = fmt.Sprintf("guest-files: %d %s", files, digest)
	g.initrd = makeInitrd(t, g.dir, "./guestinit", nil)
	return g
}

// boot runs the guest with a drive until it powers off.
func (g *guest) boot(t *testing.T, drive string) {
	t.Helper()
	out := boot(t, g.emulator, g.kernel, g.initrd, "-drive", "if=none,id=d,"+drive, "-device", "nvme,serial=cowl,drive=d")
	if !strings.Contains(out, g.want) || !strings.Contains(out, "guest-done") {
		t.Fatalf("the guest did not print %q:\n%s", g.want, out)
	}
}

// check looks at what the guest left in a qcow2 image.
func (g *guest) check(t *testing.T, img string) {
	t.Helper()
	cowl(t, "check", "-f", "qcow2", img)
	back := strings.TrimSuffix(img, ".qcow2") + ".raw"
	cowl(t, "convert", "-f", "qcow2", "-O", "raw", img, back)
	testkit.Run(t, g.fsck, "-fn", back)
}

// boot runs a guest with further devices until it powers off, and returns what it
// printed.
func boot(t *testing.T, emulator, kernel, initrd string, devices ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, emulator, append([]string{"-accel", "tcg", "-m", "512", "-nodefaults", "-nographic", "-no-reboot",
		"-serial", "stdio", "-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1"}, devices...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("guest: %v\n%s", err, out.String())
	}
	return out.String()
}

// makeInitrd packs the guest's first process, built from the package init, and
// files: what they are called in the guest, and where they are here.
func makeInitrd(t *testing.T, dir, init string, files map[string]string) string {
	t.Helper()
	bin := filepath.Join(dir, filepath.Base(init))
	cmd := exec.Command("go", "build", "-o", bin, init)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	add := func(h *cpio.Header, data []byte) {
		h.Size = int64(len(data))
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"dev", "mnt", "proc", "sys", "tmp", "var", "var/lock"} {
		add(&cpio.Header{Name: d, Mode: cpio.TypeDir | 0o755}, nil)
	}
	for name, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		add(&cpio.Header{Name: name, Mode: cpio.TypeReg | 0o755}, data)
	}
	data, err := os.ReadFile(bin)
	if err != nil {
		t.Fatal(err)
	}
	add(&cpio.Header{Name: "init", Mode: cpio.TypeReg | 0o755}, data)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, filepath.Base(init)+".initrd")
	if err := os.WriteFile(name, buf.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}
