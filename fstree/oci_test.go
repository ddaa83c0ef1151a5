package fstree_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/fstree"
)

func layer(b []byte) fstree.Layer {
	return fstree.Layer{Name: "l", Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func TestWhiteouts(t *testing.T) {
	dir := func(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755} }
	lower := archive(t, dir("a"), tar.Header{Name: "a/x:1"}, tar.Header{Name: "a/y:2"}, dir("b"), tar.Header{Name: "b/z:3"}, tar.Header{Name: "f:4"},
		tar.Header{Name: "sub/deep/file:5"}, tar.Header{Name: "l", Typeflag: tar.TypeLink, Linkname: "f"}, dir("dir"), tar.Header{Name: "dir/in:6"})
	for name, c := range map[string]struct {
		upper []tar.Header
		want  []string
	}{
		"file":   {[]tar.Header{{Name: "a/.wh.x:"}}, []string{"a/", "a/y:2", "b/", "b/z:3", "dir/", "dir/in:6", "f:4", "l:4", "sub/", "sub/deep/", "sub/deep/file:5"}},
		"folder": {[]tar.Header{{Name: ".wh.a:"}, {Name: ".wh.sub:"}, {Name: "./.wh.dir:"}}, []string{"b/", "b/z:3", "f:4", "l:4"}},
		"opaque": {[]tar.Header{{Name: "a/new:7"}, {Name: "a/.wh..wh..opq:"}, {Name: ".wh.b:"}, {Name: ".wh.sub:"}, {Name: "dir:8"}}, []string{"a/", "a/new:7", "dir:8", "f:4", "l:4"}},
		"after what replaces it": {[]tar.Header{{Name: "a/new:7"}, {Name: ".wh.a:"}, {Name: "b/.wh.missing:"}, {Name: ".wh..wh.plnk:"}, {Name: ".wh.sub:"}, {Name: ".wh.dir:"}},
			[]string{"a/", "a/new:7", "b/", "b/z:3", "f:4", "l:4"}},
		"of a link": {[]tar.Header{{Name: ".wh.f:"}, {Name: "f:new"}, {Name: ".wh..wh..opq:"}}, []string{"f:new"}},
	} {
		tree, err := fstree.FromLayers([]fstree.Layer{layer(lower), layer(archive(t, c.upper...))}, fstree.Options{TempDir: t.TempDir()})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := paths(tree.Root); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q", name, got)
		}
		tree.Close()
	}
	if _, err := fstree.FromLayers([]fstree.Layer{layer(archive(t, tar.Header{Name: "../.wh.x:"}))}, fstree.Options{}); !errors.Is(err, fstree.ErrHostile) {
		t.Errorf("a whiteout outside: %v", err)
	}
}

// layout makes an OCI layout of two layers and returns its folder and the blobs' names.
func layout(t *testing.T) (dir string, blobs []string) {
	dir = t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "blobs/sha256"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(b []byte) string {
		sum := fmt.Sprintf("%x", sha256.Sum256(b))
		put("blobs/sha256/"+sum, b)
		blobs = append(blobs, sum)
		return fmt.Sprintf(`"digest":"sha256:%s","size":%d`, sum, len(b))
	}
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(archive(t, tar.Header{Name: "etc/os:one", Uid: 3}, tar.Header{Name: "gone:1"}))
	z.Close()
	one := blob(zipped.Bytes())
	two := blob(archive(t, tar.Header{Name: ".wh.gone:"}, tar.Header{Name: "bin/sh:2", Mode: 0o4755}))
	manifest := blob(fmt.Appendf(nil, `{"layers":[{%s,"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip"},{%s}]}`, one, two))
	index := blob(fmt.Appendf(nil, `{"manifests":[{%s,"mediaType":"application/vnd.oci.image.manifest.v1+json","platform":{"os":"linux","architecture":"riscv64"}}]}`, manifest))
	put("index.json", fmt.Appendf(nil, `{"manifests":[{%s,"mediaType":"application/vnd.oci.image.index.v1+json","annotations":{"org.opencontainers.image.ref.name":"v1"}}]}`, index))
	put("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`))
	return dir, blobs
}

func TestOCILayout(t *testing.T) {
	dir, blobs := layout(t)
	check := func(what, path string, p fstree.Platform) {
		tree, err := fstree.FromOCI(path, p, fstree.Options{TempDir: t.TempDir()})
		if err != nil {
			t.Errorf("%s: %v", what, err)
			return
		}
		defer tree.Close()
		if got := paths(tree.Root); !slices.Equal(got, []string{"bin/", "bin/sh:2", "etc/", "etc/os:one"}) {
			t.Errorf("%s: %q", what, got)
		}
		if n := tree.Root.Lookup("etc/os"); n.UID != 3 {
			t.Errorf("%s: owner %d", what, n.UID)
		}
	}
	check("folder", dir, fstree.Platform{})
	check("tag", dir, fstree.Platform{Ref: "v1"})
	packed := filepath.Join(t.TempDir(), "image.tar")
	var headers []tar.Header
	for _, name := range append([]string{"oci-layout", "index.json"}, blobs...) {
		if len(name) == 64 {
			name = "blobs/sha256/" + name
		}
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, tar.Header{Name: name + ":" + string(b)})
	}
	if err := os.WriteFile(packed, archive(t, headers...), 0o644); err != nil {
		t.Fatal(err)
	}
	check("archive", packed, fstree.Platform{})
	if _, err := fstree.FromOCI(dir, fstree.Platform{Ref: "v2"}, fstree.Options{}); err == nil {
		t.Error("a tag that is not there is found")
	}
	if _, err := fstree.FromOCI(dir, fstree.Platform{OS: "linux", Architecture: "s390x"}, fstree.Options{}); err == nil {
		t.Error("a platform that is not there is found")
	}
	// one more byte in a layer is one that the digest does not have
	path := filepath.Join(dir, "blobs/sha256", blobs[1])
	b, _ := os.ReadFile(path)
	if err := os.WriteFile(path, append(b, 0), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := fstree.FromOCI(dir, fstree.Platform{}, fstree.Options{}); err == nil || !strings.Contains(err.Error(), "digest") {
		t.Errorf("a changed layer: %v", err)
	}
}

func TestDockerArchive(t *testing.T) {
	inner := archive(t, tar.Header{Name: "x:1"})
	b := archive(t, tar.Header{Name: "abc/layer.tar:" + string(inner)}, tar.Header{Name: "def/layer.tar", Typeflag: tar.TypeSymlink, Linkname: "../abc/layer.tar"},
		tar.Header{Name: `manifest.json:[{"RepoTags":["a:1"],"Layers":["def/layer.tar"]},{"RepoTags":["b:1"],"Layers":["missing"]}]`})
	path := filepath.Join(t.TempDir(), "d.tar")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
	tree, err := fstree.FromOCI(path, fstree.Platform{Ref: "a:1"}, fstree.Options{TempDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	if got := paths(tree.Root); !slices.Equal(got, []string{"x:1"}) {
		t.Errorf("%q", got)
	}
	for _, ref := range []string{"", "b:1", "c:1"} {
		if _, err := fstree.FromOCI(path, fstree.Platform{Ref: ref}, fstree.Options{}); err == nil {
			t.Errorf("%q: taken", ref)
		}
	}
}
