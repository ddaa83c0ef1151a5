package incus

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Where the boot files of a virtual machine come from.
const (
	// BootAuto takes the first that is there: what is in /boot/efi, shim and GRUB, a unified
	// kernel image, systemd-boot. Where nothing is, it warns.
	BootAuto = "auto"
	// BootESP takes what is in /boot/efi of the root file system.
	BootESP = "esp"
	// BootShimGRUB takes shim and the GRUB that the distribution signed, and makes their
	// configuration.
	BootShimGRUB = "shim-grub"
	// BootUKI takes unified kernel images, the newest one first.
	BootUKI = "uki"
	// BootSystemd takes systemd-boot and the kernels in /boot.
	BootSystemd = "systemd-boot"
	// BootNone leaves the EFI system partition empty.
	BootNone = "none"
)

// BootWays lists them.
func BootWays() []string {
	return []string{BootAuto, BootESP, BootShimGRUB, BootUKI, BootSystemd, BootNone}
}

// bootLoader is what is put into the EFI system partition.
type bootLoader struct {
	files  map[string]*fstree.Node // by path
	grub   []string                // where GRUB's configuration comes
	loader bool                    // the files are those of systemd-boot
	// kernels are in the order in which they are offered, by their versions.
	kernels []kernel
	options string // of the command line
	// subvolume is that of the root file system in a btrfs, else "".
	subvolume string
	id        string // of the distribution
	title     string
}

// kernel is one in /boot, with the paths there; initrd may be "".
type kernel struct{ version, linux, initrd string }

// efiArch is how file names call an architecture: in BOOTX64.EFI, and in directories of GRUB.
func (i *Image) efiArch() (name, grub string, err error) {
	switch k := i.Definition.Image.ArchitectureKernel; k {
	case "x86_64":
		return "x64", "x86_64-efi", nil
	case "i686":
		return "ia32", "i386-efi", nil
	case "aarch64":
		return "aa64", "arm64-efi", nil
	case "armv7l", "armv8l":
		return "arm", "arm-efi", nil
	case "riscv64":
		return "riscv64", "riscv64-efi", nil
	case "loongarch64":
		return "loongarch64", "loongarch64-efi", nil
	default:
		return "", "", fmt.Errorf("there are no boot files for the architecture %s: --boot none makes a disk without", k)
	}
}

// prepareBoot makes the directory that the EFI system partition is mounted on.
func (i *Image) prepareBoot() {
	if !i.exists("/boot/efi") {
		i.Tree.MakeDirs("/boot/efi", 0o755, i.Time) // best effort: /boot may be a link to a place of its own
	}
}

// file returns the first of the files that the tree has.
func (i *Image) file(paths ...string) *fstree.Node {
	for _, p := range paths {
		if _, _, n, err := i.Tree.Find(p); err == nil && n != nil && n.Kind == fstree.File && n.Size > 0 {
			return n
		}
	}
	return nil
}

// directory returns a directory of the tree, nil where there is none.
func (i *Image) directory(p string) *fstree.Node {
	if _, _, n, err := i.Tree.Find(p); err == nil && n != nil && n.Kind == fstree.Dir {
		return n
	}
	return nil
}

// findLoader finds the boot files.
func (i *Image) findLoader(way string) (*bootLoader, error) {
	if way == BootNone {
		return &bootLoader{}, nil
	}
	name, grub, err := i.efiArch()
	if err != nil {
		return nil, err
	}
	ways := []struct {
		way  string
		find func(name, grub string) *bootLoader
		says string
	}{
		{BootESP, i.existingESP, "nothing is in /boot/efi"},
		{BootShimGRUB, i.shimGRUB, "shim and a signed GRUB are not both there (Debian's packages shim-signed and grub-efi-*-signed)"},
		{BootUKI, i.unifiedKernels, "there is no unified kernel image in /boot/EFI/Linux or /usr/lib/modules"},
		{BootSystemd, i.systemdBoot, "systemd-boot, or a kernel in /boot, is missing"},
	}
	known := way == "" || way == BootAuto
	for _, w := range ways {
		if way != w.way && way != "" && way != BootAuto {
			continue
		}
		known = true
		if b := w.find(name, grub); b != nil {
			return b, nil
		}
		if way == w.way {
			return nil, fmt.Errorf("boot files by %s: %s", way, w.says)
		}
	}
	if !known {
		return nil, fmt.Errorf("%q is no way to boot: it is one of %v", way, BootWays())
	}
	i.warn("the root file system has no boot loader that is known: the virtual machine will not boot")
	return &bootLoader{}, nil
}

// existingESP takes files out of /boot/efi, where the partition will be mounted.
func (i *Image) existingESP(string, string) *bootLoader {
	dir := i.directory("/boot/efi")
	if dir == nil {
		return nil
	}
	b := &bootLoader{files: map[string]*fstree.Node{}}
	for p, n := range dir.Walk() {
		switch n.Kind {
		case fstree.Dir:
		case fstree.File:
			b.files[p] = n
		default:
			i.warn("/boot/efi/%s is a %s, which FAT does not hold: it is left out", p, n.Kind)
		}
	}
	if len(b.files) == 0 {
		return nil
	}
	for _, c := range dir.Children() {
		dir.Remove(c.Name)
	}
	return b
}

// shimGRUB takes what Debian, Ubuntu and those who follow them install.
func (i *Image) shimGRUB(name, grub string) *bootLoader {
	shim := i.file("/usr/lib/shim/shim"+name+".efi.signed", "/usr/lib/shim/shim"+name+".efi.signed.latest", "/usr/lib/shim/shim"+name+".efi")
	loader := i.file("/usr/lib/grub/"+grub+"-signed/grub"+name+".efi.signed", "/usr/lib/grub/"+grub+"-signed/gcd"+name+".efi.signed")
	if shim == nil || loader == nil {
		return nil
	}
	b := i.newLoader()
	b.files["EFI/BOOT/BOOT"+strings.ToUpper(name)+".EFI"] = shim
	b.files["EFI/BOOT/grub"+name+".efi"] = loader
	if mm := i.file("/usr/lib/shim/mm"+name+".efi.signed", "/usr/lib/shim/mm"+name+".efi"); mm != nil {
		b.files["EFI/BOOT/mm"+name+".efi"] = mm
	}
	// GRUB looks in the directory that it was signed with, that of the distribution
	b.grub = []string{"EFI/BOOT/grub.cfg", "EFI/" + b.id + "/grub.cfg"}
	if like := i.osRelease()["ID_LIKE"]; like != "" {
		for id := range strings.FieldsSeq(like) {
			if id = plainName(id); id != "" {
				b.grub = append(b.grub, "EFI/"+id+"/grub.cfg")
			}
		}
	}
	if len(b.kernels) == 0 && i.file("/boot/grub/grub.cfg") == nil {
		i.warn("there is no kernel in /boot: GRUB will have nothing to boot")
	}
	return b
}

// unifiedKernels takes kernels that are EFI programs with all they need.
func (i *Image) unifiedKernels(name, _ string) *bootLoader {
	b := i.newLoader()
	var names []string
	for _, dir := range []string{"/boot/EFI/Linux", "/efi/EFI/Linux", "/usr/lib/modules"} {
		d := i.directory(dir)
		if d == nil {
			continue
		}
		for p, n := range d.Walk() {
			if base := path.Base(p); n.Kind == fstree.File && strings.HasSuffix(base, ".efi") && n.Size > 0 {
				if base == "vmlinuz.efi" || base == "vmlinuz-virt.efi" {
					base = path.Base(path.Dir(p)) + ".efi"
				}
				b.files["EFI/Linux/"+base] = n
				names = append(names, base)
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	newest := slices.MaxFunc(names, compareVersions)
	b.files["EFI/BOOT/BOOT"+strings.ToUpper(name)+".EFI"] = b.files["EFI/Linux/"+newest]
	return b
}

// systemdBoot takes systemd-boot, and the kernels, which it does not read from ext4.
func (i *Image) systemdBoot(name, _ string) *bootLoader {
	base := "/usr/lib/systemd/boot/efi/systemd-boot" + name + ".efi"
	signed := i.file(base + ".signed")
	loader := signed
	if loader == nil {
		loader = i.file(base)
	}
	b := i.newLoader()
	if loader == nil || len(b.kernels) == 0 {
		return nil
	}
	if signed == nil {
		i.warn("systemd-boot is not signed: Secure Boot will refuse it")
	}
	b.loader = true
	b.files["EFI/BOOT/BOOT"+strings.ToUpper(name)+".EFI"] = loader
	b.files["EFI/systemd/systemd-boot"+name+".efi"] = loader
	for _, k := range b.kernels {
		for _, file := range []string{k.linux, k.initrd} {
			if file != "" {
				b.files[b.id+"/"+k.version+"/"+file] = i.file("/boot/" + file)
			}
		}
	}
	return b
}

// newLoader finds the kernels and the names of the distribution.
func (i *Image) newLoader() *bootLoader {
	release := i.osRelease()
	b := &bootLoader{files: map[string]*fstree.Node{}, id: plainName(release["ID"]), title: release["PRETTY_NAME"]}
	if b.id == "" {
		b.id = "linux"
	}
	if b.title == "" {
		b.title = "Linux"
	}
	settings := i.settings("/etc/default/grub")
	b.options = strings.Join(strings.Fields(settings["GRUB_CMDLINE_LINUX"]+" "+settings["GRUB_CMDLINE_LINUX_DEFAULT"]), " ")
	boot := i.directory("/boot")
	if boot == nil {
		return b
	}
	for _, c := range boot.Children() {
		version, ok := strings.CutPrefix(c.Name, "vmlinuz-")
		if !ok || c.Node.Kind != fstree.File || plainName(version) != version {
			continue
		}
		k := kernel{version: version, linux: c.Name}
		for _, initrd := range []string{"initrd.img-" + version, "initramfs-" + version + ".img", "initrd-" + version, "initramfs-" + strings.TrimPrefix(version, "linux-")} {
			if n := boot.Child(initrd); n != nil && n.Kind == fstree.File && k.initrd == "" {
				k.initrd = initrd
			}
		}
		b.kernels = append(b.kernels, k)
	}
	slices.SortFunc(b.kernels, func(x, y kernel) int { return compareVersions(y.version, x.version) })
	return b
}

func (i *Image) osRelease() map[string]string {
	if s := i.settings("/etc/os-release"); len(s) > 0 {
		return s
	}
	return i.settings("/usr/lib/os-release")
}

// settings reads a file of NAME=VALUE lines of the shell.
func (i *Image) settings(file string) map[string]string {
	text, err := i.Tree.ReadFile(file, 1<<20)
	if err != nil {
		return nil
	}
	list := map[string]string{}
	for l := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(l), "="); ok && !strings.HasPrefix(name, "#") {
			list[name] = printable(strings.Trim(value, `"'`))
		}
	}
	return list
}

// printable drops what has a meaning in the configurations of boot loaders.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || strings.ContainsRune(`"'\$`+"`;{}|&<>", r) {
			return -1
		}
		return r
	}, s)
}

// plainName is the name as far as it is one of letters, digits and a few signs.
func plainName(s string) string {
	return strings.TrimLeft(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.+~", r) {
			return r
		}
		return -1
	}, s), ".")
}

// bytes is about how much room the files take.
func (b *bootLoader) bytes() int64 {
	total := int64(mib)
	for _, n := range b.files {
		total += n.Size + 64<<10
	}
	return total
}

// tree returns the files of the EFI system partition. partition is how the kernel calls
// the one with the root file system.
func (b *bootLoader) tree(when time.Time, partition string) (*fstree.Tree, error) {
	t := fstree.New()
	t.Root.ModTime = when
	for _, p := range slices.Sorted(maps.Keys(b.files)) {
		n, err := t.PutFile(p, nil, when)
		if err != nil {
			return nil, err
		}
		n.Size, n.Content = b.files[p].Size, b.files[p].Content
	}
	texts := map[string]string{}
	for _, p := range b.grub {
		texts[p] = b.grubConfig(partition)
	}
	if b.loader {
		texts["loader/loader.conf"] = "timeout 1\n"
		for _, k := range b.kernels {
			texts["loader/entries/"+b.id+"-"+k.version+".conf"] = b.entry(k, partition)
		}
	}
	for p, text := range texts {
		if _, err := t.PutFile(p, []byte(text), when); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// commandLine is that of a kernel.
func (b *bootLoader) commandLine(k kernel, partition string) string {
	root := "LABEL=" + rootLabel
	if k.initrd == "" { // the kernel itself knows partitions only
		root = partition
	}
	if b.subvolume != "" {
		root += " rootflags=subvol=" + b.subvolume
	}
	return strings.TrimSpace("root=" + root + " ro console=tty1 console=ttyS0 " + b.options)
}

// grubConfig finds the root file system, and there the configuration that the
// distribution makes; where it has made none, the kernels are listed here.
func (b *bootLoader) grubConfig(partition string) string {
	var s strings.Builder
	boot := "/boot"
	if b.subvolume != "" { // GRUB's paths begin at the top of the file system
		boot = "/" + b.subvolume + boot
	}
	fmt.Fprintf(&s, "search.fs_label %s root\nset prefix=($root)%s/grub\nif [ -f $prefix/grub.cfg ]; then\n\tconfigfile $prefix/grub.cfg\nfi\nset timeout=1\n", rootLabel, boot)
	for _, k := range b.kernels {
		fmt.Fprintf(&s, "menuentry '%s, %s' {\n\tlinux %s/%s %s\n", b.title, k.version, boot, k.linux, b.commandLine(k, partition))
		if k.initrd != "" {
			fmt.Fprintf(&s, "\tinitrd %s/%s\n", boot, k.initrd)
		}
		s.WriteString("}\n")
	}
	return s.String()
}

// entry is a file of the Boot Loader Specification.
func (b *bootLoader) entry(k kernel, partition string) string {
	dir := "/" + b.id + "/" + k.version + "/"
	text := fmt.Sprintf("title %s\nversion %s\nlinux %s%s\n", b.title, k.version, dir, k.linux)
	if k.initrd != "" {
		text += "initrd " + dir + k.initrd + "\n"
	}
	return text + "options " + b.commandLine(k, partition) + "\n"
}

// compareVersions compares names with numbers in them by their values.
func compareVersions(a, b string) int {
	for a != "" && b != "" {
		x, y := digits(a), digits(b)
		if x > 0 && y > 0 {
			n, _ := strconv.ParseUint(a[:x], 10, 64)
			m, _ := strconv.ParseUint(b[:y], 10, 64)
			if c := cmp.Compare(n, m); c != 0 {
				return c
			}
			a, b = a[x:], b[y:]
			continue
		}
		if c := cmp.Compare(a[0], b[0]); c != 0 {
			return c
		}
		a, b = a[1:], b[1:]
	}
	return cmp.Compare(len(a), len(b))
}

// digits is how many digits a text begins with.
func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}
