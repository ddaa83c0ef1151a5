package source

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/definition"
)

// Options says how sources are got.
type Options struct {
	// Dir is the folder for what is downloaded. It is made.
	Dir string
	// Work is an empty folder for what programs of the host make. Only sources of which
	// NeedsWork is true use it.
	Work string
	// Client sends the requests; nil is one without limits of time.
	Client *http.Client
	// Tree says how archives are read.
	Tree fstree.Options
	// Progress, where not nil, is told how much of a file has come; total is 0 where that is
	// not known.
	Progress func(name string, done, total int64)
	// Warn, where not nil, is told what is not verified.
	Warn func(text string)
}

// getter gets one source.
type getter struct {
	Options
	ctx context.Context
	d   *definition.Definition
	url string // of the definition, rendered, without a slash at its end
	// folder is where files of this distribution are.
	folder string
	keys   *keyring
}

// downloaders are those that are supported.
func downloaders() map[string]func(*getter) (*fstree.Tree, error) {
	return map[string]func(*getter) (*fstree.Tree, error){
		"rootfs-http":      (*getter).rootfs,
		"docker-http":      (*getter).docker,
		"alpinelinux-http": (*getter).alpine,
		"archlinux-http":   (*getter).arch,
		"fedora-http":      (*getter).fedora,
		"gentoo-http":      (*getter).gentoo,
		"nixos-http":       (*getter).nixos,
		"opensuse-http":    (*getter).opensuse,
		"ubuntu-http":      (*getter).ubuntu,
		"voidlinux-http":   (*getter).void,
		"debootstrap":      (*getter).debootstrap,
		"rpmbootstrap":     (*getter).rpmbootstrap,
	}
}

// NeedsWork reports whether the source of a definition is made by programs of the host.
func NeedsWork(d *definition.Definition) bool {
	name := strings.TrimSpace(d.Source.Downloader)
	return name == "debootstrap" || name == "rpmbootstrap"
}

// Get returns the root file system of a definition's source.
func Get(ctx context.Context, d *definition.Definition, o Options) (*fstree.Tree, error) {
	name := strings.TrimSpace(d.Source.Downloader)
	get := downloaders()[name]
	if get == nil {
		var known []string
		for k := range downloaders() {
			known = append(known, k)
		}
		slices.Sort(known)
		return nil, fmt.Errorf("source.downloader %s is not supported, only %s: pack a root file system that another program made with pack-incus", name, strings.Join(known, ", "))
	}
	g := &getter{Options: o, ctx: ctx, d: d}
	if g.Progress == nil {
		g.Progress = func(string, int64, int64) {}
	}
	if g.Warn == nil {
		g.Warn = func(string) {}
	}
	if g.Client == nil {
		g.Client = &http.Client{}
	}
	client := *g.Client
	client.CheckRedirect = noDowngrade
	g.Client = &client
	text, err := d.Render(d.Source.URL)
	if err != nil {
		return nil, fmt.Errorf("failed to render source URL: %w", err)
	}
	g.url = strings.TrimRight(text, "/")
	g.folder = plain(d.Image.Distribution) + "-" + plain(d.Image.Release) + "-" + plain(d.Image.ArchitectureMapped)
	tree, err := get(g)
	if err != nil {
		return nil, fmt.Errorf("error while downloading source: %s: %w", name, err)
	}
	return tree, nil
}

// plain makes a name of a folder of a text.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r) {
			return r
		}
		return '_'
	}, s)
}

// open reads a root file system that was downloaded.
func (g *getter) open(path string, platform fstree.Platform) (*fstree.Tree, error) {
	return incus.OpenSource(path, incus.SourceOptions{Tree: g.Tree, Platform: platform})
}

// platform is that of the image, in the words of container images.
func (g *getter) platform() fstree.Platform {
	p := fstree.Platform{OS: "linux"}
	switch k := g.d.Image.ArchitectureKernel; k {
	case "x86_64":
		p.Architecture = "amd64"
	case "aarch64":
		p.Architecture = "arm64"
	case "i686":
		p.Architecture = "386"
	case "armv6l":
		p.Architecture, p.Variant = "arm", "v6"
	case "armv7l", "armv8l":
		p.Architecture, p.Variant = "arm", "v7"
	case "loongarch64":
		p.Architecture = "loong64"
	default:
		p.Architecture = k
	}
	return p
}
