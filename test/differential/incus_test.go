package differential

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/paxtar"
)

// definition is one for images of richRoot.
const definition = `image: {distribution: tiny, release: "3.20", architecture: amd64, variant: cloud, serial: "1"}
source: {downloader: rootfs-http}
packages: {manager: apt}
mappings: {architecture_map: debian}
files:
- {generator: hostname, path: /etc/hostname}
- {generator: hosts, path: /etc/hosts}
- {generator: cloud-init, name: user-data}
- {generator: cloud-init, name: meta-data}
- {generator: cloud-init, name: vendor-data, content: "#cloud-config\na: 1"}
- {generator: cloud-init, name: network-config}
- {generator: template, name: foo, path: /etc/foo, content: "x {{ container.name }}", template: {when: [start], properties: {a: "b: c", n: "5"}}}
- {generator: dump, path: /etc/new/dumped, content: "hi {{ image.release }}", pongo: true, mode: "0600"}
- {generator: fstab}
- {generator: remove, path: /gone}
`

// buildPacker makes the program that packs, beside ours.
var buildPacker = sync.OnceValue(func() error {
	return testkit.Build(filepath.Join(cliDir, "cowl-incus"), "./cmd/cowl-incus")
})

// packer returns the path of our program by the name distrobuilder, and a folder with the
// definition.
func packer(t *testing.T) (program, dir string) {
	t.Helper()
	tools := needCLI(t)
	if err := buildPacker(); err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	program = filepath.Join(t.TempDir(), "distrobuilder")
	if err := errors.Join(os.Symlink(tools.ours, program), os.WriteFile(filepath.Join(dir, "d.yaml"), []byte(definition), 0o644)); err != nil {
		t.Fatal(err)
	}
	return program, dir
}

// richRoot is a root file system with what archives hold.
func richRoot(t *testing.T) *fstree.Tree {
	t.Helper()
	tree, when := fstree.New(), time.Unix(1700000000, 0)
	for path, text := range map[string]string{"etc/hostname": "old\n", "etc/hosts": "127.0.0.1 localhost\n", "etc/passwd": "root:x:0:0::/:\n", "etc/group": "root:x:0:\n",
		"a file with spaces": "x", "newline\nname": "y", strings.Repeat("n", 255): "z", "gone": "g", "usr/bin/tool": strings.Repeat("tool", 5000), "empty": ""} {
		n, err := tree.PutFile(path, []byte(text), when)
		if err != nil {
			t.Fatal(err)
		}
		n.UID, n.GID, n.Mode = 12, 1<<20, 0o4750
	}
	for name, n := range map[string]*fstree.Node{"link": {Kind: fstree.Symlink, Mode: 0o777, Target: "./f1"}, "up": {Kind: fstree.Symlink, Mode: 0o777, Target: "../a/b"},
		"zero": {Kind: fstree.CharDevice, Mode: 0o666, Major: 1, Minor: 5}, "disk": {Kind: fstree.BlockDevice, Mode: 0o660, Major: 8, Minor: 300},
		"fifo": {Kind: fstree.FIFO, Mode: 0o600}, "hard": tree.Root.Lookup("usr/bin/tool"), "tmp": fstree.NewDir(0o1777), "dev": fstree.NewDir(0o755),
		"proc": fstree.NewDir(0o755), "sys": fstree.NewDir(0o755), "run": fstree.NewDir(0o755)} {
		if n.ModTime.IsZero() {
			n.ModTime = when
		}
		if err := tree.Root.Set(name, n); err != nil {
			t.Fatal(err)
		}
	}
	tree.Root.ModTime = when
	return tree
}

// rootArchive writes a tree to an archive in a folder.
func rootArchive(t *testing.T, dir string, tree *fstree.Tree) string {
	t.Helper()
	var b bytes.Buffer
	w := paxtar.NewWriter(&b, paxtar.Options{})
	path := filepath.Join(dir, "root.tar")
	if err := errors.Join(w.AddTree("./", tree.Root), w.Close(), os.WriteFile(path, b.Bytes(), 0o644)); err != nil {
		t.Fatal(err)
	}
	return path
}

// sameRoots compares root file systems, attributes apart, which not every folder holds.
func sameRoots(t *testing.T, what, a, b string) {
	t.Helper()
	var trees [2]*fstree.Tree
	for i, dir := range []string{a, b} {
		var err error
		if trees[i], err = fstree.FromDir(dir, fstree.Options{}); err != nil {
			t.Fatal(err)
		}
		defer trees[i].Close()
	}
	list, err := fstree.Comparison{TimeUnit: time.Second, Ignore: func(path string, n *fstree.Node) {
		n.Xattrs = nil
		if slices.Contains([]string{"", "dev", "etc", "etc/new", "etc/new/dumped", "etc/fstab"}, path) { // written by generators
			n.ModTime = time.Unix(0, 0)
		}
	}}.Compare(trees[0].Root, trees[1].Root)
	if err != nil || len(list) > 0 {
		t.Errorf("%s: %v, %v", what, strings.Join(list, "\n"), err)
	}
}

// succeed runs a program in a folder.
func succeed(t *testing.T, dir, program string, args ...string) string {
	t.Helper()
	o := runIn(t, dir, program, args...)
	if o.code != 0 {
		t.Fatalf("%s %s: %d\n%s%s", program, strings.Join(args, " "), o.code, o.stdout, o.stderr)
	}
	return o.stdout
}

// TestIncusRoots unpacks split and unified images with unsquashfs and tar, beside the
// archive that they were made of.
func TestIncusRoots(t *testing.T) {
	testkit.Root(t)
	unsquashfs := testkit.Tool(t, "unsquashfs")
	program, dir := packer(t)
	rootArchive(t, dir, richRoot(t))
	unpack := func(name, archive string) string {
		folder := filepath.Join(dir, name)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		succeed(t, dir, "tar", "--numeric-owner", "-xpf", archive, "-C", folder)
		return folder
	}
	want := unpack("want", "root.tar")
	succeed(t, want, "sh", "-c", "rm gone; mkdir etc/new; printf 'hi 3.20\\n' >etc/new/dumped; chmod 600 etc/new/dumped; printf 'LABEL=rootfs  /         ext4  defaults  0 0\\nLABEL=UEFI    /boot/efi vfat  defaults  0 0\\n' >etc/fstab")
	for _, word := range []string{"gzip", "zstd", "lz4", "xz", "lzma"} {
		succeed(t, dir, program, "pack-incus", "d.yaml", "root.tar", "out", "--compression", word)
		succeed(t, dir, unsquashfs, "-no-xattrs", "-d", "split-"+word, "out/rootfs.squashfs")
		sameRoots(t, word, want, filepath.Join(dir, "split-"+word))
	}
	for _, word := range []string{"none", "bzip2"} {
		if !testkit.Installed("bzip2") {
			continue
		}
		succeed(t, dir, program, "pack-incus", "d.yaml", "root.tar", "out", "--type", "unified", "--compression", word)
	}
	sameRoots(t, "unified", want, filepath.Join(unpack("unified", "out/tiny-3.20-amd64-cloud-1.tar"), "rootfs"))
	if testkit.Installed("bzip2") {
		sameRoots(t, "bzip2", want, filepath.Join(unpack("bzip2", "out/tiny-3.20-amd64-cloud-1.tar.bz2"), "rootfs"))
	}
}

// TestIncusDisk lets the programs of the parts check the disk of a virtual machine.
func TestIncusDisk(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"e2fsck", "debugfs", "fsck.fat", "sgdisk", "resize2fs", "mdir"} {
		testkit.Tool(t, name)
	}
	program, dir := packer(t)
	tree := richRoot(t)
	for path, text := range map[string]string{"usr/lib/shim/shimx64.efi.signed": "shim", "usr/lib/grub/x86_64-efi-signed/grubx64.efi.signed": "grub", "etc/os-release": "ID=debian\n", "boot/vmlinuz-6.1": "kernel"} {
		if _, err := tree.PutFile(path, []byte(text), time.Unix(1700000000, 0)); err != nil {
			t.Fatal(err)
		}
	}
	rootArchive(t, dir, tree)
	methods := []string{"zstd", "gzip", "none"}
	if !testkit.Long() {
		methods = methods[:1]
	}
	for _, word := range methods {
		succeed(t, dir, program, "pack-incus", "d.yaml", "root.tar", "out", "--vm", "--compression", word)
		tools := needCLI(t)
		succeed(t, dir, tools.img, "check", "out/disk.qcow2")
		succeed(t, dir, tools.img, "convert", "-O", "raw", "out/disk.qcow2", "disk.raw")
		if out := succeed(t, dir, "sgdisk", "-v", "disk.raw"); !strings.Contains(out, "No problems found") {
			t.Error(out)
		}
		succeed(t, dir, "dd", "if=disk.raw", "of=esp", "bs=1M", "skip=1", "count=100", "status=none")
		succeed(t, dir, "dd", "if=disk.raw", "of=root", "bs=1M", "skip=101", "conv=sparse", "status=none")
		succeed(t, dir, "fsck.fat", "-n", "esp")
		if out := succeed(t, dir, "mdir", "-i", "esp", "-b", "::/EFI/BOOT"); !strings.Contains(out, "BOOTX64.EFI") || !strings.Contains(out, "grub.cfg") {
			t.Error(out)
		}
		succeed(t, dir, "e2fsck", "-fn", "root")
		if out := succeed(t, dir, "debugfs", "-R", "cat /etc/new/dumped", "root"); out != "hi 3.20\n" {
			t.Errorf("%q", out)
		}
		succeed(t, dir, "truncate", "-s", "16G", "root")
		succeed(t, dir, "resize2fs", "root")
		succeed(t, dir, "e2fsck", "-fn", "root")
	}
}

// incusPeers is where ./test.sh setup puts distrobuilder and its definitions.
const incusPeers = "/var/cache/cowl-test/incus"

// findDistrobuilder returns the program to compare with, "" where there is none:
// $COWL_DISTROBUILDER, the one that ./test.sh setup fetched, or the one that is installed.
func findDistrobuilder() string {
	for _, name := range []string{os.Getenv("COWL_DISTROBUILDER"), incusPeers + "/distrobuilder", "distrobuilder"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// distrobuilder is findDistrobuilder for tests that need it.
func distrobuilder(t *testing.T) string {
	t.Helper()
	path := findDistrobuilder()
	if path == "" {
		t.Skip("distrobuilder is not there (./test.sh setup fetches it), and $COWL_DISTROBUILDER does not name it")
	}
	return path
}

// TestIncusBesideDistrobuilder makes the same images with both programs.
func TestIncusBesideDistrobuilder(t *testing.T) {
	testkit.Root(t)
	testkit.Tool(t, "unsquashfs")
	theirs := distrobuilder(t)
	ours, dir := packer(t)
	rootArchive(t, dir, richRoot(t))
	if err := os.Mkdir(filepath.Join(dir, "root"), 0o755); err != nil {
		t.Fatal(err)
	}
	succeed(t, dir, "tar", "--numeric-owner", "-xpf", "root.tar", "-C", "root")
	for _, word := range []string{"gzip", "zstd"} {
		succeed(t, dir, "mkdir", "theirs-"+word)
		succeed(t, dir, theirs, "pack-incus", "d.yaml", "root", "theirs-"+word, "--compression", word, "--cache-dir", filepath.Join(dir, "cache"))
		succeed(t, dir, ours, "pack-incus", "d.yaml", "root", "ours-"+word, "--compression", word)
		var meta [2]string
		for i, folder := range []string{"theirs-" + word, "ours-" + word} {
			archives, err := filepath.Glob(filepath.Join(dir, folder, "incus.tar.*"))
			if err != nil || len(archives) != 1 {
				t.Fatalf("%v, %v", archives, err)
			}
			succeed(t, filepath.Join(dir, folder), "tar", "-xf", archives[0])
			text, err := os.ReadFile(filepath.Join(dir, folder, "metadata.yaml"))
			if err != nil {
				t.Fatal(err)
			}
			meta[i] = regexp.MustCompile(`(?m)^(creation|expiry)_date: \d+$`).ReplaceAllString(string(text), "$1")
			meta[i] += succeed(t, filepath.Join(dir, folder), "sh", "-c", "cd templates && for f in *; do echo $f; cat $f; done")
			meta[i] += succeed(t, dir, "tar", "-tf", archives[0])
			succeed(t, filepath.Join(dir, folder), "unsquashfs", "-no-xattrs", "-d", "rootfs", "rootfs.squashfs")
		}
		if meta[0] != meta[1] {
			t.Errorf("%s: metadata differ:\n%s\n%s", word, meta[0], meta[1])
		}
		os.Remove(filepath.Join(dir, "theirs-"+word, "rootfs/etc/resolv.conf")) // made for the programs that it runs
		sameRoots(t, word, filepath.Join(dir, "theirs-"+word, "rootfs"), filepath.Join(dir, "ours-"+word, "rootfs"))
	}
}

// TestIncusUnifiedBesideDistrobuilder unpacks a unified image of both programs, with file
// capabilities and attributes. The targets of symbolic links, which distrobuilder changes,
// are those of the source in ours.
func TestIncusUnifiedBesideDistrobuilder(t *testing.T) {
	testkit.Root(t)
	theirs := distrobuilder(t)
	ours, dir := packer(t)
	tree := richRoot(t)
	tool := tree.Root.Lookup("usr/bin/tool")
	tool.SetXattrs([]fstree.Xattr{{Name: "security.capability", Value: []byte{1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, {Name: "user.a", Value: []byte("b")}})
	rootArchive(t, dir, tree)
	unpack := func(archive, folder string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, folder), 0o755); err != nil {
			t.Fatal(err)
		}
		succeed(t, dir, "tar", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", archive, "-C", folder)
	}
	unpack("root.tar", "root")
	args := strings.Fields("--type unified --compression gzip --cache-dir " + filepath.Join(dir, "cache"))
	name := "/tiny-3.20-amd64-cloud-1.tar.gz"
	succeed(t, dir, "mkdir", "theirs")
	succeed(t, dir, theirs, append([]string{"pack-incus", "d.yaml", "root", "theirs"}, args...)...)
	succeed(t, dir, ours, append([]string{"pack-incus", "d.yaml", "root", "ours"}, args...)...)
	var trees [2]*fstree.Tree
	for i, folder := range []string{"theirs", "ours"} {
		unpack(folder+name, folder+".root")
		root := filepath.Join(dir, folder+".root", "rootfs")
		if i == 0 {
			os.Remove(filepath.Join(root, "etc/resolv.conf")) // made for the programs that it runs
		}
		var err error
		if trees[i], err = fstree.FromDir(root, fstree.Options{}); err != nil {
			t.Fatal(err)
		}
		defer trees[i].Close()
	}
	for path, want := range map[string]string{"link": "./f1", "up": "../a/b"} {
		if got := trees[1].Root.Lookup(path).Target; got != want {
			t.Errorf("%s leads to %q, not to %q", path, got, want)
		}
	}
	list, err := fstree.Comparison{TimeUnit: time.Second, Ignore: func(path string, n *fstree.Node) {
		n.Target = ""
		if slices.Contains([]string{"dev", "etc", "etc/new", "etc/new/dumped", "etc/fstab"}, path) { // written by generators
			n.ModTime = time.Unix(0, 0)
		}
		if path == "" { // distrobuilder's archive has no entry of it
			n.Mode, n.UID, n.GID, n.ModTime = 0, 0, 0, time.Unix(0, 0)
		}
	}}.Compare(trees[0].Root, trees[1].Root)
	if err != nil || len(list) > 0 {
		t.Errorf("%s, %v", strings.Join(list, "\n"), err)
	}
	source, err := fstree.FromDir(filepath.Join(dir, "root"), fstree.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	// as many as the file system of the folder took
	if got, want := trees[1].Root.Lookup("hard").Xattrs, source.Root.Lookup("hard").Xattrs; len(got) != len(want) {
		t.Errorf("attributes: %v, the source has %v", got, want)
	}
}

// TestIncusDefinitions validates the official definitions, and what damage makes of them,
// with both programs.
func TestIncusDefinitions(t *testing.T) {
	t.Parallel()
	theirs := distrobuilder(t)
	var files []string
	for _, folder := range []string{os.Getenv("COWL_DISTROBUILDER_IMAGES"), incusPeers + "/usr/share/distrobuilder-images", "/usr/share/distrobuilder-images"} {
		if found, err := filepath.Glob(filepath.Join(folder, "*.yaml")); err == nil && folder != "" && files == nil {
			files = found
		}
	}
	if files == nil {
		t.Skip("the official definitions are not there (./test.sh setup fetches them), and $COWL_DISTROBUILDER_IMAGES does not name their folder")
	}
	ours, dir := packer(t)
	count, r := testkit.Count(10), testkit.Rand(1)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.SplitAfter(string(text), "\n")
		for i := range 1 + count/10 {
			damaged := slices.Clone(lines)
			if i > 0 {
				switch at := r.IntN(len(lines)); r.IntN(3) {
				case 0:
					damaged = slices.Delete(damaged, at, at+1)
				case 1:
					damaged[at] = strings.Replace(damaged[at], ":", "x:", 1)
				case 2:
					damaged = slices.Insert(damaged, at, damaged[at])
				}
			}
			name := filepath.Join(dir, "damaged.yaml")
			if err := os.WriteFile(name, []byte(strings.Join(damaged, "")), 0o644); err != nil {
				t.Fatal(err)
			}
			a, b := runIn(t, dir, theirs, "validate", name), runIn(t, dir, ours, "validate", name)
			if a.code != b.code || i == 0 && b.code != 0 {
				t.Errorf("%s, damage %d: %d %s, %d %s", file, i, a.code, a.stderr, b.code, b.stderr)
			}
		}
	}
}
