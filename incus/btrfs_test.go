package incus

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/partition"
)

// TestBtrfs makes a disk with a btrfs, and mounts what is in the partition.
func TestBtrfs(t *testing.T) {
	testkit.Tool(t, "mkfs.btrfs")
	testkit.Mount(t, "btrfs", "200M") // skips the test where the kernel has none
	dir, tree := t.TempDir(), richTree(t)
	// one that Linux takes: cap_net_raw
	tree.Root.Lookup("big").SetXattrs([]fstree.Xattr{{Name: "user.a", Value: []byte("b")}, {Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}})
	i := imageOf(t, "targets: {incus: {vm: {size: 500000000, boot_size: 40000000, filesystem: btrfs}}}\nfiles: [{generator: fstab}]\n", tree)
	if err := i.Generate(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"usr/lib/shim/shimx64.efi.signed", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed", "boot/vmlinuz-6.1", "boot/initrd.img-6.1"} {
		if _, err := tree.PutFile(path, []byte(path), when()); err != nil {
			t.Fatal(err)
		}
	}
	var said []string
	i.Warn = func(s string) { said = append(said, s) }
	r := pack(t, i, PackOptions{Dir: dir, VM: &VMOptions{}, Registry: registry(), Compression: compression(t, "zstd")})
	if text := strings.Join(said, "\n"); !strings.Contains(text, "not the same each time") {
		t.Errorf("%q", text)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 2 {
		t.Errorf("%v, %v", list, err)
	}
	img, err := block.Open(t.Context(), registry(), block.Source{Filename: r.Files[1].Path, Format: "qcow2"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	disk := img.ReaderAt(t.Context())
	table, err := partition.Read(disk, img.Size())
	if err != nil {
		t.Fatal(err)
	}
	part := filepath.Join(dir, "part")
	f, err := os.Create(part)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(f, io.NewSectionReader(disk, table.Partitions[1].Start, table.Partitions[1].Length))
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
	mounted := filepath.Join(dir, "mounted")
	if err := os.Mkdir(mounted, 0o700); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "mount", "-t", "btrfs", "-o", "loop,ro,subvol=@", part, mounted)
	t.Cleanup(func() { exec.Command("umount", mounted).Run() })
	got, err := fstree.FromDir(mounted, fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	compare(t, "btrfs", tree.Root, got.Root)
	if fstab := text(t, got, "etc/fstab"); !strings.Contains(fstab, "subvol=@") {
		t.Errorf("%q", fstab)
	}
	if out := testkit.Run(t, "btrfs", "filesystem", "label", mounted); out != "rootfs\n" {
		t.Errorf("label %q", out)
	}
	p := &packing{image: i, PackOptions: PackOptions{VM: &VMOptions{}}}
	plan, err := p.planDisk()
	if err != nil {
		t.Fatal(err)
	}
	grub := plan.loader.grubConfig("")
	for _, want := range []string{"prefix=($root)/@/boot/grub\n", "linux /@/boot/vmlinuz-6.1 root=LABEL=rootfs rootflags=subvol=@ ro", "initrd /@/boot/initrd.img-6.1\n"} {
		if !strings.Contains(grub, want) {
			t.Errorf("no %q in %s", want, grub)
		}
	}
}
