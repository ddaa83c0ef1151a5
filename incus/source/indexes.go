package source

import (
	"bytes"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
)

// newest returns the last of the names on a page that a pattern means, by its first group,
// in the order of their bytes.
func (g *getter) newest(page, pattern string) (string, error) {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return "", err
	}
	text, err := g.text(page)
	if err != nil {
		return "", err
	}
	var names []string
	for _, m := range re.FindAllStringSubmatch(string(text), -1) {
		names = append(names, m[1])
	}
	if len(names) == 0 {
		return "", fmt.Errorf("nothing on the page %s is like %s", page, pattern)
	}
	return slices.MaxFunc(names, byNumbers), nil
}

// byNumbers compares names, numbers in them by their values.
func byNumbers(a, b string) int {
	split := regexp.MustCompile(`\d+|\D+`)
	return slices.CompareFunc(split.FindAllString(a, -1), split.FindAllString(b, -1), func(x, y string) int {
		if x[0] >= '0' && x[0] <= '9' && y[0] >= '0' && y[0] <= '9' {
			x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
		}
		return strings.Compare(x, y)
	})
}

// release and variant are parts of addresses: they must not lead elsewhere.
func part(what, s string) (string, error) {
	if s == "" || strings.ContainsAny(s, "/\\?#% ") || strings.Contains(s, "..") {
		return "", fmt.Errorf("%s: %q is no part of an address", what, s)
	}
	return s, nil
}

// parts checks the release and the architecture and returns them, the release also quoted
// for patterns.
func (g *getter) parts() (release, arch string, err error) {
	if release, err = part("image.release", g.d.Image.Release); err != nil {
		return "", "", err
	}
	arch, err = part("image.architecture_mapped", g.d.Image.ArchitectureMapped)
	return release, arch, err
}

// rootfs takes what the address has, on this machine or another.
func (g *getter) rootfs() (*fstree.Tree, error) {
	u, err := url.Parse(g.url)
	if err != nil {
		return nil, fmt.Errorf("failed to parse URL: %w", err)
	}
	switch u.Scheme {
	case "file":
		return g.open(filepath.FromSlash(u.Path), g.platform())
	case "http", "https":
		path, err := g.file(g.url, "")
		if err != nil {
			return nil, err
		}
		return g.open(path, g.platform())
	}
	return nil, fmt.Errorf("source.url: %q begins with none of file://, http:// and https://", g.url)
}

// alpine takes the minimal root file system of Alpine Linux.
func (g *getter) alpine() (*fstree.Tree, error) {
	release, arch, err := g.parts()
	if err != nil {
		return nil, err
	}
	if release == "edge" {
		return nil, errors.New("the release edge is made of another one by programs in it, which is not supported: name that release, and upgrade in an action")
	}
	fields := strings.Split(release, ".")
	if len(fields) != 2 && len(fields) != 3 {
		return nil, fmt.Errorf("image.release: %q is no release of Alpine Linux, such as 3.20 or 3.20.1", release)
	}
	base := fmt.Sprintf("%s/v%s.%s/releases/%s/", g.url, fields[0], fields[1], arch)
	name := fmt.Sprintf("alpine-minirootfs-%s-%s.tar.gz", release, arch)
	if len(fields) == 2 {
		if name, err = g.newest(base, `"(alpine-minirootfs-`+regexp.QuoteMeta(release)+`\.\d+-`+regexp.QuoteMeta(arch)+`\.tar\.gz)"`); err != nil {
			return nil, err
		}
	}
	path, err := g.withOwnSum(base+name, ".sha256", ".asc")
	if err != nil {
		return nil, err
	}
	tree, err := g.open(path, fstree.Platform{})
	if err == nil {
		tree.Root.Mode = 0o755 // which archives of Alpine do not have
	}
	return tree, err
}

// withOwnSum downloads a file with a sum and a signature beside it.
func (g *getter) withOwnSum(address, sumSuffix, signatureSuffix string) (string, error) {
	signatures, err := g.secure(address)
	if err != nil {
		return "", err
	}
	var want sum
	if !g.d.Source.SkipVerification && sumSuffix != "" {
		list, err := g.text(address + sumSuffix)
		if err != nil {
			return "", err
		}
		if want, err = sumOf(list, address[strings.LastIndexByte(address, '/')+1:]); err != nil {
			return "", err
		}
	}
	path, err := g.file(address, want)
	if err == nil && signatures {
		err = g.verifyFile(path, address+signatureSuffix)
	}
	return path, err
}

// withList downloads a file of a folder with a signed list of sums.
func (g *getter) withList(base, name, listName, signatureName string) (string, error) {
	signatures, err := g.secure(base)
	if err != nil {
		return "", err
	}
	if g.d.Source.SkipVerification {
		return g.file(base+name, "")
	}
	list, err := g.text(base + listName)
	if err != nil {
		return "", err
	}
	if signatures {
		signature, err := g.text(base + signatureName)
		if err == nil {
			err = g.verify(base+listName, bytes.NewReader(list), signature)
		}
		if err != nil {
			return "", err
		}
	}
	want, err := sumOf(list, name)
	if err != nil {
		return "", err
	}
	return g.file(base+name, want)
}

// ubuntu takes Ubuntu Base.
func (g *getter) ubuntu() (*fstree.Tree, error) {
	release, arch, err := g.parts()
	if err != nil {
		return nil, err
	}
	if v := strings.ToLower(g.d.Image.Variant); v != "default" {
		return nil, fmt.Errorf("image.variant: %q is not supported, only default", v)
	}
	base := g.url + "/releases/" + release + "/release/"
	name := fmt.Sprintf("ubuntu-base-%s-base-%s.tar.gz", release, arch)
	if !strings.ContainsAny(release, "0123456789") {
		if name, err = g.newest(base, `"(ubuntu-base-\d\d\.\d\d(?:\.\d+)?-base-`+regexp.QuoteMeta(arch)+`\.tar\.gz)"`); err != nil {
			return nil, err
		}
	}
	path, err := g.withList(base, name, "SHA256SUMS", "SHA256SUMS.gpg")
	if err != nil {
		return nil, err
	}
	return g.open(path, fstree.Platform{})
}

// void takes the root file system of Void Linux.
func (g *getter) void() (*fstree.Tree, error) {
	selector, err := part("image.architecture_mapped", g.d.Image.ArchitectureMapped)
	if err != nil {
		return nil, err
	}
	if v := g.d.Source.Variant; v != "" {
		if v, err = part("source.variant", v); err != nil {
			return nil, err
		}
		selector += "-" + v
	}
	base := g.url + "/"
	name, err := g.newest(base, `"(void-`+regexp.QuoteMeta(selector)+`-ROOTFS-[^"/]*\.tar\.xz)"`)
	if err != nil {
		return nil, err
	}
	path, err := g.withList(base, name, "sha256sum.txt", "sha256sum.sig")
	if err != nil {
		return nil, err
	}
	return g.open(path, fstree.Platform{})
}

// arch takes the bootstrap archive of Arch Linux, or that of its ports.
func (g *getter) arch() (*fstree.Tree, error) {
	arch, err := part("image.architecture_mapped", g.d.Image.ArchitectureMapped)
	if err != nil {
		return nil, err
	}
	release, address := g.d.Image.Release, ""
	switch arch {
	case "x86_64":
		if release == "" {
			if release, err = g.newest(g.url+"/", `"(\d{4}\.\d\d\.\d\d)/?"`); err != nil {
				return nil, err
			}
		}
		if release, err = part("image.release", release); err != nil {
			return nil, err
		}
		address = fmt.Sprintf("%s/%s/archlinux-bootstrap-%s-x86_64.tar.zst", g.url, release, release)
	case "riscv64":
		address = g.url + "/images/archriscv-latest.tar.zst"
	default:
		address = g.url + "/os/ArchLinuxARM-" + arch + "-latest.tar.gz"
	}
	path, err := g.withOwnSum(address, "", ".sig")
	if err != nil {
		return nil, err
	}
	tree, err := g.open(path, fstree.Platform{})
	if err != nil {
		return nil, err
	}
	if inner := tree.Root.Child("root." + arch); inner != nil && inner.Kind == fstree.Dir {
		tree.Root = inner
	}
	return tree, nil
}

// gentoo takes a stage 3 of Gentoo, and the tree of its packages.
func (g *getter) gentoo() (*fstree.Tree, error) {
	arch, err := part("image.architecture_mapped", g.d.Image.ArchitectureMapped)
	if err != nil {
		return nil, err
	}
	top := arch
	switch {
	case arch == "i686":
		top = "x86"
	case strings.HasPrefix(arch, "arm") && arch != "arm64":
		top = "arm"
	case strings.HasPrefix(arch, "ppc"):
		top = "ppc"
	case strings.HasPrefix(arch, "s390"):
		top = "s390"
	}
	selector := arch
	if v := g.d.Source.Variant; v != "" {
		if v, err = part("source.variant", v); err != nil {
			return nil, err
		}
		selector += "-" + v
	}
	base := g.url + "/releases/" + top + "/autobuilds/current-stage3-" + selector + "/"
	name, err := g.newest(base, `"(stage3-`+regexp.QuoteMeta(selector)+`-[^"/]*\.tar\.(?:xz|bz2))"`)
	if err != nil {
		return nil, err
	}
	signatures, err := g.secure(base)
	if err != nil {
		return nil, err
	}
	var want sum
	if !g.d.Source.SkipVerification {
		text, err := g.text(base + name + ".DIGESTS")
		if err != nil {
			return nil, err
		}
		if text, err = g.signedText(name+".DIGESTS", text, signatures); err != nil {
			return nil, err
		}
		if want, err = sumOf(text, name); err != nil {
			return nil, err
		}
	}
	path, err := g.file(base+name, want)
	if err != nil {
		return nil, err
	}
	packages, err := g.withOwnSum(g.url+"/snapshots/portage-latest.tar.xz", "", ".gpgsig")
	if err != nil {
		return nil, err
	}
	tree, err := g.open(path, fstree.Platform{})
	if err != nil {
		return nil, err
	}
	return tree, g.graft(tree, packages, "portage", "var/db/repos/gentoo")
}

// graft puts a directory of an archive into a tree, in place of what is there.
func (g *getter) graft(tree *fstree.Tree, archive, from, to string) error {
	other, err := g.open(archive, fstree.Platform{})
	if err != nil {
		return errors.Join(err, tree.Close())
	}
	tree.OnClose(other)
	n := other.Root.Child(from)
	if n == nil || n.Kind != fstree.Dir {
		return errors.Join(fmt.Errorf("%s has no directory %s", archive, from), tree.Close())
	}
	i := strings.LastIndexByte(to, '/')
	dir, err := tree.MakeDirs(to[:i], 0o755, n.ModTime)
	if err == nil {
		err = dir.Set(to[i+1:], n)
	}
	if err != nil {
		return errors.Join(err, tree.Close())
	}
	return nil
}

// opensuse takes the container image of openSUSE.
func (g *getter) opensuse() (*fstree.Tree, error) {
	release, arch, err := g.parts()
	if err != nil {
		return nil, err
	}
	if g.url == "" {
		g.url = "https://mirrorcache-eu.opensuse.org/download"
	}
	base, kind := g.url+"/distribution/leap/"+release+"/appliances/", "leap"
	if strings.EqualFold(release, "tumbleweed") {
		folder, ok := map[string]string{"i686": "container", "x86_64": "container", "aarch64": "container_ARM", "ppc64le": "container_PowerPC", "s390x": "container_zSystems"}[arch]
		if !ok {
			return nil, fmt.Errorf("there is no openSUSE Tumbleweed for %q", arch)
		}
		base, kind = g.url+"/repositories/Virtualization:/containers:/images:/openSUSE-Tumbleweed/"+folder+"/", "tumbleweed"
	}
	if strings.HasSuffix(arch, "86") {
		arch = "ix86"
	}
	name, err := g.newest(base, `"(?:\./)?(opensuse-`+kind+`-image[^"/]*`+regexp.QuoteMeta(arch)+`[^"/]*\.tar\.xz)"`)
	if err != nil {
		return nil, err
	}
	signatures, err := g.secure(base)
	if err != nil {
		return nil, err
	}
	var want sum
	if !g.d.Source.SkipVerification {
		text, err := g.text(base + name + ".sha256")
		if err != nil {
			return nil, err
		}
		if text, err = g.signedText(name+".sha256", text, signatures); err != nil {
			return nil, err
		}
		// the list may name the build that the name is a link to
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), " ")
		if want, err = sumOf([]byte(first), name); err != nil {
			return nil, err
		}
	}
	path, err := g.file(base+name, want)
	if err != nil {
		return nil, err
	}
	return g.open(path, fstree.Platform{})
}

// fedora takes the container image of Fedora.
func (g *getter) fedora() (*fstree.Tree, error) {
	release, arch, err := g.parts()
	if err != nil {
		return nil, err
	}
	const kind = "Fedora-Container-Base-Generic"
	if _, err := g.secure(g.url); err != nil {
		return nil, err
	}
	base := g.url + "/packages/" + kind + "/" + release + "/"
	build, err := g.newest(base, `"(\d{8}\.(?:n\.)?\d+)/?"`)
	if err != nil {
		return nil, err
	}
	path, err := g.file(fmt.Sprintf("%s%s/images/%s-%s-%s.%s.oci.tar.xz", base, build, kind, release, build, arch), "")
	if err != nil {
		return nil, err
	}
	return g.open(path, fstree.Platform{Ref: "fedora:" + release})
}

// nixos takes the squashfs that NixOS builds for Incus.
func (g *getter) nixos() (*fstree.Tree, error) {
	release, arch, err := g.parts()
	if err != nil {
		return nil, err
	}
	if g.url == "" {
		g.url = "https://hydra.nixos.org"
	}
	if _, err := g.secure(g.url); err != nil {
		return nil, err
	}
	jobs := "release-" + release
	if release == "unstable" {
		jobs = "trunk-combined"
	}
	path, err := g.file(fmt.Sprintf("%s/job/nixos/%s/nixos.incusContainerImage.%s-linux/latest/download-by-type/file/squashfs-image", g.url, jobs, arch), "")
	if err != nil {
		return nil, err
	}
	return g.open(path, fstree.Platform{})
}
