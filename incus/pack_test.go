package incus

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/partition"
	"github.com/cowl-disk/cowl/paxtar"
	"github.com/cowl-disk/cowl/squashfs"
)

func registry() *block.Registry { return block.NewRegistry(drivers.All()...) }

func compression(t *testing.T, word string) Compression {
	t.Helper()
	c, err := ParseCompression(word)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// richTree has what file systems can hold, and more than one chunk of data.
func richTree(t *testing.T) *fstree.Tree {
	t.Helper()
	tree := testTree(t)
	data := make([]byte, 2<<20+5)
	rand.NewChaCha8([32]byte{1}).Read(data[:100<<10])
	copy(data[1<<20:], data[:100<<10])
	n, err := tree.PutFile("big", data, when())
	if err != nil {
		t.Fatal(err)
	}
	n.Mode = 0o6755
	n.SetXattrs([]fstree.Xattr{{Name: "user.a", Value: []byte("b")}, {Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 4, 0, 0}}})
	for name, n := range map[string]*fstree.Node{"again": n, "link": {Kind: fstree.Symlink, Mode: 0o777, Target: "./f1", ModTime: when()},
		"up": {Kind: fstree.Symlink, Mode: 0o777, Target: "a/b", ModTime: when()}, "zero": {Kind: fstree.CharDevice, Mode: 0o666, Major: 1, Minor: 5, ModTime: when()},
		"fifo\n\xff": {Kind: fstree.FIFO, Mode: 0o600, UID: 1 << 30, ModTime: when()}} {
		if err := tree.Root.Set(name, n); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func pack(t *testing.T, i *Image, o PackOptions) *Result {
	t.Helper()
	r, err := i.Pack(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// compare fails where two trees differ.
func compare(t *testing.T, what string, a, b *fstree.Node) {
	t.Helper()
	list, err := fstree.Comparison{}.Compare(a, b)
	if err != nil || len(list) > 0 {
		t.Errorf("%s: %v, %v", what, list, err)
	}
}

func TestPack(t *testing.T) {
	methods := []string{"gzip", "zstd-3", "lz4", "none", "xz", "lzma"}
	if testing.Short() {
		methods = methods[:4]
	}
	for _, word := range methods {
		c, dir := compression(t, word), t.TempDir()
		i := imageOf(t, "", richTree(t))
		all := sha256.New()
		if _, _, err := c.Squashfs(); err == nil {
			r := pack(t, i, PackOptions{Dir: dir, Compression: c})
			if r.Type != "split" || len(r.Files) != 2 || r.Files[0].Path != filepath.Join(dir, "incus.tar"+c.extension()) || r.Files[1].Path != filepath.Join(dir, "rootfs.squashfs") {
				t.Fatalf("%s: %+v", word, r)
			}
			for _, f := range r.Files {
				b, err := os.ReadFile(f.Path)
				sum := sha256.Sum256(b)
				if err != nil || f.Size != int64(len(b)) || f.SHA256 != hex.EncodeToString(sum[:]) {
					t.Errorf("%s: %+v, %v", word, f, err)
				}
				all.Write(b)
			}
			if r.Fingerprint != hex.EncodeToString(all.Sum(nil)) {
				t.Errorf("%s: fingerprint %s", word, r.Fingerprint)
			}
			tree, err := squashfs.OpenTree(r.Files[1].Path, fstree.Options{})
			if err != nil {
				t.Fatal(err)
			}
			compare(t, word, i.Tree.Root, tree.Root)
			tree.Close()
		}
		r := pack(t, i, PackOptions{Dir: dir, Unified: true, Compression: c})
		if r.Type != "unified" || len(r.Files) != 1 || filepath.Base(r.Files[0].Path) != "tiny-3.20-amd64-default-20231114_2213.tar"+c.extension() || r.Fingerprint != r.Files[0].SHA256 {
			t.Fatalf("%s: %+v", word, r)
		}
		tree, err := fstree.OpenTar(r.Files[0].Path, fstree.Options{})
		if err != nil {
			t.Fatal(err)
		}
		compare(t, word+" unified", i.Tree.Root, tree.Root.Lookup("rootfs"))
		if text(t, tree, "metadata.yaml") == "" {
			t.Errorf("%s: no metadata", word)
		}
		tree.Close()
	}
}

// TestSameBits holds that an image depends on its input only.
func TestSameBits(t *testing.T) {
	for name, o := range map[string]PackOptions{"squashfs": {Compression: compression(t, "gzip")}, "xz": {Compression: compression(t, "xz")}, "unified": {Unified: true, Compression: compression(t, "zstd")},
		"vm": {VM: &VMOptions{}, Registry: registry(), Compression: compression(t, "gzip-1")}} {
		if name == "xz" && testing.Short() {
			continue
		}
		sum := func(processors int, change bool) string {
			old := runtime.GOMAXPROCS(processors)
			defer runtime.GOMAXPROCS(old)
			tree := richTree(t)
			if change {
				n := tree.Root.Lookup("big")
				b := bytes.Clone([]byte(n.Content.(fstree.Bytes)))
				b[len(b)-1]++
				n.Content = fstree.Bytes(b)
			}
			o.Dir = t.TempDir()
			return pack(t, imageOf(t, "", tree), o).Fingerprint
		}
		first := sum(1, false)
		if again := sum(8, false); again != first {
			t.Errorf("%s: %s and %s", name, first, again)
		}
		if other := sum(2, true); other == first {
			t.Errorf("%s: a changed byte does not change the fingerprint", name)
		}
	}
}

// broken is a file that cannot be read to its end.
type broken struct{ fstree.Reader }

func (b broken) Open() (fstree.Reader, error) { return b, nil }
func (broken) Close() error                   { return nil }
func (broken) NextData(off int64) (int64, int64, error) {
	return off, 2 << 20, nil
}
func (broken) ReadAt(p []byte, off int64) (int, error) {
	if off >= 1<<20 {
		return 0, errors.New("bad sector")
	}
	return len(p), nil
}

// TestFailure holds that a failure leaves what was there, and nothing else.
func TestFailure(t *testing.T) {
	for name, o := range map[string]PackOptions{"split": {Compression: compression(t, "gzip")}, "unified": {Unified: true, Compression: compression(t, "zstd")},
		"vm": {VM: &VMOptions{}, Registry: registry(), Compression: compression(t, "gzip")}} {
		o.Dir = t.TempDir()
		kept := filepath.Join(o.Dir, "rootfs.squashfs")
		if err := os.WriteFile(kept, []byte("before"), 0o600); err != nil {
			t.Fatal(err)
		}
		tree := testTree(t)
		tree.Root.Set("bad", &fstree.Node{Kind: fstree.File, Size: 2 << 20, Content: broken{}})
		_, err := imageOf(t, "", tree).Pack(t.Context(), o)
		if err == nil || !strings.Contains(err.Error(), "bad") {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := newImage(t, "").Pack(ctx, o); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		list, _ := os.ReadDir(o.Dir)
		if text, err := os.ReadFile(kept); err != nil || string(text) != "before" || len(list) != 1 {
			t.Errorf("%s: %q, %v, %v", name, text, err, list)
		}
	}
}

func TestNames(t *testing.T) {
	i := newImage(t, "")
	i.Definition.Image.Name = "a/b c"
	dir := filepath.Join(t.TempDir(), "new", "folder")
	r := pack(t, i, PackOptions{Dir: dir, Unified: true, Compression: compression(t, "none")})
	if r.Files[0].Path != filepath.Join(dir, "a_b c.tar") || r.Name != "a/b c" {
		t.Errorf("%+v", r)
	}
	i.Definition.Image.Name = ".."
	if r := pack(t, i, PackOptions{Dir: dir, Unified: true, Compression: compression(t, "none")}); r.Files[0].Path != filepath.Join(dir, "...tar") {
		t.Errorf("%+v", r)
	}
	if err := os.Mkdir(filepath.Join(dir, "rootfs.squashfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := i.Pack(t.Context(), PackOptions{Dir: dir, Compression: compression(t, "gzip")}); err == nil || !strings.Contains(err.Error(), "is a directory") {
		t.Error(err)
	}
}

func TestParseCompression(t *testing.T) {
	for word, want := range map[string]string{"xz": "", "gzip-9": "", "zstd-22": "", "none": "invalid squashfs compression method", "": "invalid squashfs", "bzip2-9": "does not support specifying levels", "bzip2": "invalid squashfs",
		"xz-9": `squashfs compression method "xz" does not support specifying levels`, "lz4": "", "lz4-1": `"lz4" does not support specifying levels`,
		"zstd-23": `invalid compression level 23 for method "zstd"`, "gzip-0": "invalid compression level", "foo": "invalid compression method", "XZ": "invalid compression method",
		"lzo": "Incus refuses", "lzop-3": "Incus refuses", "lzip": "Incus refuses", "gzip-": "invalid compression method"} {
		c, err := ParseCompression(word)
		if err == nil {
			_, _, err = c.Squashfs()
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", word, err, want)
		}
	}
}

func TestVM(t *testing.T) {
	dir := t.TempDir()
	i := imageOf(t, "targets: {incus: {vm: {size: 300000000, boot_size: 40000000}}}\n", richTree(t))
	var said []string
	i.Warn = func(s string) { said = append(said, s) }
	r := pack(t, i, PackOptions{Dir: dir, VM: &VMOptions{}, Registry: registry(), Compression: compression(t, "zstd")})
	if len(r.Files) != 2 || filepath.Base(r.Files[1].Path) != "disk.qcow2" || !r.VM {
		t.Fatalf("%+v", r)
	}
	if len(said) != 1 || !strings.Contains(said[0], "will not boot") {
		t.Errorf("%q", said)
	}
	img, err := block.Open(t.Context(), registry(), block.Source{Filename: r.Files[1].Path, Format: "qcow2"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	disk := img.ReaderAt(t.Context())
	table, err := partition.Read(disk, img.Size())
	if err != nil || img.Size() != 300000000/512*512 || len(table.Partitions) != 2 || table.Partitions[0].Start != 1<<20 || table.Partitions[0].Length != 40000000 ||
		table.Partitions[1].Start%(1<<20) != 0 || table.Partitions[1].TypeGUID != partition.TypeLinuxFilesystem {
		t.Fatalf("%d bytes, %+v, %v", img.Size(), table, err)
	}
	var head [2048]byte
	if _, err := disk.ReadAt(head[:], table.Partitions[1].Start); err != nil || head[1080] != 0x53 || head[1081] != 0xef || string(head[1144:1150]) != "rootfs" {
		t.Errorf("no ext4: %x, %v", head[1080:1082], err)
	}
	if _, err := disk.ReadAt(head[:512], 1<<20); err != nil || string(head[82:87]) != "FAT32" || string(head[71:75]) != "UEFI" || binary.LittleEndian.Uint32(head[28:]) != 2048 {
		t.Errorf("no FAT32: %q, %v", head[71:87], err)
	}
}

func TestVMSizes(t *testing.T) {
	for name, c := range map[string]struct{ vm, says string }{
		"too small":   {"size: 60000000, boot_size: 35000000", "set targets.incus.vm.size to"},
		"small btrfs": {"size: 60000000, boot_size: 35000000, filesystem: btrfs", "set targets.incus.vm.size to"},
		"unknown":     {"filesystem: ntfs", `"ntfs" is not supported`},
		"huge":        {"size: 9223372036854775807", "out of range"},
	} {
		tree := testTree(t)
		data := make([]byte, 30<<20)
		for i := range data {
			data[i] = 1
		}
		if _, err := tree.PutFile("big", data, when()); err != nil {
			t.Fatal(err)
		}
		_, err := imageOf(t, "targets: {incus: {vm: {"+c.vm+"}}}\n", tree).Pack(t.Context(), PackOptions{Dir: t.TempDir(), VM: &VMOptions{Boot: BootNone}, Registry: registry(), Compression: compression(t, "none")})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	i := newImage(t, "")
	i.Tree.Root.Set("huge", &fstree.Node{Kind: fstree.File, Size: 6 << 30, Content: fullOfData{}})
	p := &packing{image: i, PackOptions: PackOptions{VM: &VMOptions{Boot: BootNone}}}
	plan, err := p.planDisk()
	if err != nil || plan.size <= 7<<30 || plan.size%(1<<30) != 0 {
		t.Errorf("%+v, %v", plan, err)
	}
}

// fullOfData is a file without holes that nobody reads.
type fullOfData struct{ broken }

func (f fullOfData) Open() (fstree.Reader, error) { return f, nil }
func (fullOfData) NextData(off int64) (int64, int64, error) {
	return off, 6 << 30, nil
}

// TestDisk writes in any order and size, also to what is stored already, and compares.
func TestDisk(t *testing.T) {
	const size = 5<<20 + 512*3
	for _, compress := range []bool{true, false} {
		path := filepath.Join(t.TempDir(), "d.qcow2")
		if err := ops.Create(t.Context(), ops.CreateJob{Registry: registry(), Filename: path, Format: "qcow2", Size: size}); err != nil {
			t.Fatal(err)
		}
		img, err := block.Open(t.Context(), registry(), block.Source{Filename: path, Format: "qcow2"}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		model, d, r := make([]byte, size), newDisk(t.Context(), img, diskUnit, compress), rand.New(rand.NewPCG(1, 2))
		for range 300 {
			off := r.Int64N(size)
			p := bytes.Repeat([]byte{byte(r.IntN(4))}, int(min(size-off, 1+r.Int64N(200000))))
			copy(model[off:], p)
			if _, err := d.WriteAt(p, off); err != nil {
				t.Fatal(err)
			}
		}
		if err := d.Flush(); err != nil {
			t.Fatal(err)
		}
		if _, err := d.WriteAt([]byte("x"), size); err == nil {
			t.Error("written behind the end")
		}
		got := make([]byte, size)
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, model) {
			t.Errorf("compressed %v: the disk differs, %v", compress, err)
		}
		if err := img.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestDiskStoresWhole writes clusters in halves: none waits longer than for its second one,
// although clusters are used again.
func TestDiskStoresWhole(t *testing.T) {
	const size = 64 * diskUnit
	path := filepath.Join(t.TempDir(), "d.qcow2")
	if err := ops.Create(t.Context(), ops.CreateJob{Registry: registry(), Filename: path, Format: "qcow2", Size: size}); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), registry(), block.Source{Filename: path, Format: "qcow2"}, block.OpenOptions{Write: true, Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(t.Context())
	d := newDisk(t.Context(), img, diskUnit, true)
	defer d.stop()
	half := bytes.Repeat([]byte{7}, diskUnit/2)
	for off := int64(0); off < size; off += diskUnit / 2 {
		if _, err := d.WriteAt(half, off); err != nil {
			t.Fatal(err)
		}
		if want := 1 - int(off/(diskUnit/2)%2); len(d.waiting) != want {
			t.Fatalf("%d clusters wait after a write at %d", len(d.waiting), off)
		}
	}
	if len(d.free) == 0 {
		t.Error("no cluster is used again")
	}
}

func TestLoaders(t *testing.T) {
	signed := map[string]string{"usr/lib/shim/shimx64.efi.signed": "shim", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "grub", "etc/os-release": "ID=debian\nPRETTY_NAME=\"Debian 'x'\"\nID_LIKE=\"a ../b\"\n",
		"boot/vmlinuz-6.9.1": "k9", "boot/vmlinuz-6.10.2": "k10", "boot/initrd.img-6.10.2": "i10", "boot/vmlinuz-evil'name": "x", "etc/default/grub": "GRUB_CMDLINE_LINUX='quiet $(x)'\n"}
	for name, c := range map[string]struct {
		files map[string]string
		way   string
		want  map[string]string // files of the partition, or what they have
	}{
		"shim and GRUB": {signed, "", map[string]string{"EFI/BOOT/BOOTX64.EFI": "shim", "EFI/BOOT/grubx64.efi": "grub", "EFI/debian/grub.cfg": "search.fs_label rootfs root",
			"EFI/a/grub.cfg": "menuentry 'Debian x, 6.10.2' {\n\tlinux /boot/vmlinuz-6.10.2 root=LABEL=rootfs ro console=tty1 console=ttyS0 quiet (x)\n\tinitrd /boot/initrd.img-6.10.2",
			"EFI/b/grub.cfg": "linux /boot/vmlinuz-6.9.1 root=PART ro"}},
		"what is there": {map[string]string{"boot/efi/EFI/x/y.efi": "y", "usr/lib/shim/shimx64.efi.signed": "shim"}, BootAuto, map[string]string{"EFI/x/y.efi": "y"}},
		"uki":           {map[string]string{"boot/EFI/Linux/l-6.9.efi": "old", "boot/EFI/Linux/l-6.10.efi": "new"}, BootUKI, map[string]string{"EFI/BOOT/BOOTX64.EFI": "new", "EFI/Linux/l-6.9.efi": "old"}},
		"systemd-boot": {map[string]string{"usr/lib/systemd/boot/efi/systemd-bootx64.efi": "sd", "boot/vmlinuz-6.1": "k", "boot/initramfs-6.1.img": "i"}, BootSystemd,
			map[string]string{"EFI/BOOT/BOOTX64.EFI": "sd", "linux/6.1/vmlinuz-6.1": "k", "loader/entries/linux-6.1.conf": "initrd /linux/6.1/initramfs-6.1.img\noptions root=LABEL=rootfs"}},
	} {
		i := imageOf(t, "", fstree.New())
		for path, content := range c.files {
			if _, err := i.Tree.PutFile(path, []byte(content), when()); err != nil {
				t.Fatal(err)
			}
		}
		b, err := i.findLoader(c.way)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		esp, err := b.tree(when(), "PART")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for path, want := range c.want {
			if esp.Root.Lookup(path) == nil {
				t.Errorf("%s: no %s", name, path)
			} else if got := text(t, esp, path); !strings.Contains(got, want) {
				t.Errorf("%s: %s is %q, want %q", name, path, got, want)
			}
		}
		if n := i.Tree.Root.Lookup("boot/efi"); n != nil && n.Len() > 0 {
			t.Errorf("%s: /boot/efi is not empty", name)
		}
	}
	for way, says := range map[string]string{"lilo": "is no way to boot", BootUKI: "no unified kernel image", BootESP: "nothing is in /boot/efi"} {
		if _, err := newImage(t, "").findLoader(way); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", way, err)
		}
	}
}

func TestOpenSource(t *testing.T) {
	dir := t.TempDir()
	i := imageOf(t, "", richTree(t))
	pack(t, i, PackOptions{Dir: dir, Compression: compression(t, "gzip-1")})
	rootfs := filepath.Join(dir, "rootfs.squashfs")
	tree, err := OpenSource(rootfs, SourceOptions{})
	if err != nil {
		t.Fatal(err)
	}
	compare(t, "squashfs", i.Tree.Root, tree.Root)
	tree.Close()
	var b bytes.Buffer
	w := paxtar.NewWriter(&b, paxtar.Options{})
	if err := errors.Join(w.AddTree("./", i.Tree.Root), w.Close()); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(dir, "a.tar")
	owners := filepath.Join(dir, "owners")
	os.WriteFile(archive, b.Bytes(), 0o600)
	os.WriteFile(owners, []byte("/etc/hosts m 600 7 8\n"), 0o600)
	tree, err = OpenSource(archive, SourceOptions{Tree: fstree.Options{Owner: &fstree.Owner{UID: 3, GID: 4}}, Ownership: owners})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if a, b := tree.Root.Lookup("etc/hosts"), tree.Root.Lookup("bin/tool"); a.UID != 7 || a.GID != 8 || a.Mode != 0o600 || b.UID != 3 || b.GID != 4 {
		t.Errorf("%+v %+v", a, b)
	}
	folder, err := OpenSource(dir, SourceOptions{})
	if err != nil || folder.Root.Child("a.tar") == nil {
		t.Errorf("%v", err)
	}
	for _, bad := range []string{filepath.Join(dir, "no"), owners} {
		if _, err := OpenSource(bad, SourceOptions{}); err == nil {
			t.Errorf("%s is taken for a root file system", bad)
		}
	}
}

// TestInterrupted holds that a build ends when its context does, and leaves nothing.
func TestInterrupted(t *testing.T) {
	for name, o := range map[string]PackOptions{"split": {Compression: compression(t, "gzip")}, "unified": {Unified: true, Compression: compression(t, "zstd")},
		"vm": {VM: &VMOptions{}, Registry: registry(), Compression: compression(t, "gzip")}} {
		ctx, cancel := context.WithCancel(t.Context())
		o.Dir = t.TempDir()
		o.Progress = func(_ string, done, _ int64) {
			if done > 0 {
				cancel()
			}
		}
		_, err := imageOf(t, "", richTree(t)).Pack(ctx, o)
		list, _ := os.ReadDir(o.Dir)
		if !errors.Is(err, context.Canceled) || len(list) > 0 {
			t.Errorf("%s: %v, %v", name, err, list)
		}
		cancel()
	}
}
