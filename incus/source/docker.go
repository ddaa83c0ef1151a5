package source

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/cowl-disk/cowl/fstree"
)

// normal completes the name of an image as Docker does: that of a registry and "library/"
// may be left out, and the tag.
func normal(name string) string {
	first, rest, found := strings.Cut(name, "/")
	switch {
	case !found:
		name = "docker.io/library/" + name
	case !strings.ContainsAny(first, ".:") && first != "localhost":
		name = "docker.io/" + name
	case first == "docker.io" && !strings.Contains(rest, "/"):
		name = "docker.io/library/" + rest
	}
	if last := name[strings.LastIndexByte(name, '/')+1:]; !strings.ContainsAny(last, ":@") {
		name += ":latest"
	}
	return name
}

// docker pulls an image of a registry, as anybody may, into an OCI layout. Blobs are
// verified by their digests.
func (g *getter) docker() (*fstree.Tree, error) {
	name := normal(strings.TrimPrefix(g.url, "docker://"))
	repository, err := remote.NewRepository(name)
	if err != nil {
		return nil, fmt.Errorf("failed to parse image reference: %w", err)
	}
	host := repository.Reference.Host()
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	// as Docker: a registry of this machine needs no certificate
	ip := net.ParseIP(host)
	repository.PlainHTTP = host == "localhost" || ip != nil && ip.IsLoopback()
	repository.Client = &auth.Client{Client: g.Client, Cache: auth.NewCache()}
	layout := filepath.Join(g.Dir, g.folder, "oci-"+plain(name))
	if err := os.MkdirAll(layout, 0o755); err != nil {
		return nil, err
	}
	store, err := oci.New(layout)
	if err != nil {
		return nil, err
	}
	p := g.platform()
	tag := plain(repository.Reference.Reference)
	options := oras.DefaultCopyOptions
	options.WithTargetPlatform(&v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant})
	if _, err := oras.Copy(g.ctx, repository, repository.Reference.Reference, store, tag, options); err != nil {
		return nil, fmt.Errorf("%s for %s/%s: %w", name, p.OS, p.Architecture, err)
	}
	return fstree.FromOCI(layout, fstree.Platform{Ref: tag, OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}, g.Tree)
}
