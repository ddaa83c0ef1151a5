package endtoend

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/test/endtoend/diskwork"
)

// TestFormatsGuest boots one guest whose disks are images of many formats, which cowl made and the emulator's own
// drivers write. The guest reads back what it wrote; cowl reads the same, and finds the images without fault.
func TestFormatsGuest(t *testing.T) {
	emulator := testkit.Tool(t, "qemu-system-x86_64")
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-*")
	if len(kernels) == 0 {
		t.Skip("no cloud kernel in /boot: install linux-image-cloud-amd64")
	}
	dir := t.TempDir()
	raw := filepath.Join(dir, "start.raw")
	disk := make([]byte, 9<<20)
	testkit.FillDisk(testkit.Rand(9), disk)
	for off := 1 << 20; off < len(disk); off += 4 << 20 {
		clear(disk[off : off+2<<20]) // units that have no room yet
	}
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	images := []struct{ name, format, options string }{
		{"vmdk", "vmdk", ""}, {"zeroed", "vmdk", "zeroed_grain=on"}, {"split", "vmdk", "subformat=twoGbMaxExtentSparse"},
		{"vhdx", "vhdx", "block_size=1M"}, {"vpc", "vpc", "force_size=on"}, {"vdi", "vdi", ""}, {"qed", "qed", "cluster_size=4k"}, {"parallels", "parallels", "cluster_size=64k"},
	}
	devices := []string{"-append", fmt.Sprint("console=ttyS0 quiet panic=-1 disks=", len(images))}
	path := func(name string) string { return filepath.Join(dir, name+".img") }
	for _, x := range images {
		args := []string{"convert", "-f", "raw", "-O", x.format}
		if x.options != "" {
			args = append(args, "-o", x.options)
		}
		cowl(t, append(args, raw, path(x.name))...)
		devices = append(devices, "-drive", "if=none,discard=unmap,detect-zeroes=off,format="+x.format+",id="+x.name+",file="+path(x.name), "-device", "nvme,serial="+x.name+",drive="+x.name)
	}
	out := boot(t, emulator, kernels[0], makeInitrd(t, dir, "./diskguest", nil), devices...)
	if !strings.Contains(out, "guest-done") {
		t.Fatal(out)
	}
	for _, x := range images {
		cowl(t, "check", "-f", x.format, path(x.name))
		back := filepath.Join(dir, x.name+".raw")
		cowl(t, "convert", "-f", x.format, "-O", "raw", path(x.name), back)
		got, err := os.ReadFile(back)
		if err != nil {
			t.Fatal(err)
		}
		want := make([]byte, len(got))
		copy(want, disk)
		for _, s := range diskwork.Steps(x.name, int64(len(want))) {
			if s.Kind == diskwork.Write || s.Kind == diskwork.Zero {
				copy(want[s.Offset:], s.Data())
			}
		}
		if line := fmt.Sprintf("guest-disk: %s %d %x", x.name, len(want), sha256.Sum256(want)); !strings.Contains(out, line) {
			t.Errorf("the guest does not read what it wrote to %s: no %q in\n%s", x.name, line, out)
		}
		if !bytes.Equal(got, want) {
			at := testkit.NewModel(int64(len(want)))
			at.Write(want, 0)
			t.Errorf("%s: we read something else than the guest wrote: %s", x.name, at.Diff(got, 0))
		}
	}
}
