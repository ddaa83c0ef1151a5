package fstree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// Platform picks one of the images of an OCI index. Empty fields take any.
type Platform struct {
	OS, Architecture, Variant string
	// Ref, where not empty, is the name of the image: the tag in an OCI layout
	// (org.opencontainers.image.ref.name), or one of the names in a "docker save" archive.
	Ref string
}

// FromOCI reads the root file system of a container image: the layers of an OCI layout
// (a folder or a tar archive of one) or of a "docker save" archive. Digests of the blobs
// are checked where the image names them. An empty platform is Linux on this machine's
// architecture; where there is only one image it is taken whatever it is for.
func FromOCI(path string, p Platform, o Options) (*Tree, error) {
	t, err := fromOCI(path, p, o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

func fromOCI(path string, p Platform, o Options) (*Tree, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	var files *Tree
	if info.IsDir() {
		files, err = FromDir(path, Options{Limits: o.Limits})
	} else {
		files, err = OpenTar(path, Options{Limits: o.Limits, TempDir: o.TempDir})
	}
	if err != nil {
		return nil, err
	}
	defer files.Close()
	image := ociImage{files}
	layers, err := image.layers(p)
	if err != nil {
		return nil, err
	}
	return FromLayers(layers, o)
}

// Layer is a layer of a container image: a tar archive, compressed or not.
type Layer struct {
	Name string
	// Open returns the bytes of the archive. It must fail at the end where they are not
	// what they should be.
	Open func() (io.ReadCloser, error)
}

// FromLayers applies layers on each other, the lowest first, with whiteouts and opaque
// directories (OCI image specification, "Image Layer Filesystem Changeset"). Contents are
// copied to a temporary file.
func FromLayers(layers []Layer, o Options) (*Tree, error) {
	b := &builder{tree: New(), use: NewMeter(o.Limits)}
	s := &tarSource{b: b, options: o, layer: true}
	for _, l := range layers {
		b.touched = map[entry]bool{}
		if err := s.layerOf(l); err != nil {
			return nil, errors.Join(fmt.Errorf("layer %s: %w", l.Name, err), b.tree.Close())
		}
	}
	return b.tree.finish(o), nil
}

func (s *tarSource) layerOf(l Layer) error {
	r, err := l.Open()
	if err != nil {
		return err
	}
	defer r.Close()
	if err := s.read(struct{ io.Reader }{r}); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r) // so that its digest is checked
	return err
}

// ociImage finds things in an image.
type ociImage struct{ files *Tree }

// The media types of indexes and manifests.
const (
	typeIndex      = "application/vnd.oci.image.index.v1+json"
	typeDockerList = "application/vnd.docker.distribution.manifest.list.v2+json"
	refName        = "org.opencontainers.image.ref.name"
)

type descriptor struct {
	MediaType   string
	Digest      string
	Size        int64
	Annotations map[string]string
	Platform    *struct{ OS, Architecture, Variant string }
}

// maxJSON bounds an index or a manifest.
const maxJSON = 8 << 20

func (i ociImage) layers(p Platform) ([]Layer, error) {
	if i.files.Root.Lookup("oci-layout") != nil && i.files.Root.Lookup("index.json") != nil {
		return i.ociLayers(p)
	}
	if i.files.Root.Lookup("manifest.json") != nil {
		return i.dockerLayers(p)
	}
	return nil, errors.New("neither an OCI layout (index.json) nor a docker archive (manifest.json)")
}

func (i ociImage) ociLayers(p Platform) ([]Layer, error) {
	var index struct{ Manifests []descriptor }
	if err := i.json("index.json", "", &index); err != nil {
		return nil, err
	}
	for range 4 { // indexes may be nested
		d, err := choose(index.Manifests, p)
		if err != nil {
			return nil, err
		}
		path, err := blobPath(d.Digest)
		if err != nil {
			return nil, err
		}
		if d.MediaType == typeIndex || d.MediaType == typeDockerList {
			index.Manifests = nil
			if err := i.json(path, d.Digest, &index); err != nil {
				return nil, err
			}
			p.Ref = "" // found
			continue
		}
		var manifest struct{ Layers []descriptor }
		if err := i.json(path, d.Digest, &manifest); err != nil {
			return nil, err
		}
		var layers []Layer
		for _, l := range manifest.Layers {
			path, err := blobPath(l.Digest)
			if err != nil {
				return nil, err
			}
			if strings.Contains(l.MediaType, "encrypted") {
				return nil, fmt.Errorf("layer %s is encrypted, which is not supported", l.Digest)
			}
			layers = append(layers, Layer{l.Digest, func() (io.ReadCloser, error) { return i.open(path, l.Digest) }})
		}
		return layers, nil
	}
	return nil, errors.New("indexes are nested too deep")
}

// choose picks the descriptor of an image.
func choose(list []descriptor, p Platform) (descriptor, error) {
	var fit, names []descriptor
	for _, d := range list {
		if p.Ref == "" || d.Annotations[refName] == p.Ref {
			names = append(names, d)
		}
	}
	if len(names) == 1 && p.OS == "" && p.Architecture == "" {
		return names[0], nil
	}
	want := p
	if want.OS == "" {
		want.OS = "linux"
	}
	if want.Architecture == "" {
		want.Architecture = runtime.GOARCH
	}
	for _, d := range names {
		if q := d.Platform; q == nil || q.OS == want.OS && q.Architecture == want.Architecture && (want.Variant == "" || q.Variant == want.Variant) {
			fit = append(fit, d)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return descriptor{}, fmt.Errorf("%d images fit: name one", len(fit))
	}
	return descriptor{}, fmt.Errorf("none of %d images is %q for %s/%s", len(list), p.Ref, want.OS, want.Architecture)
}

func (i ociImage) dockerLayers(p Platform) ([]Layer, error) {
	var manifest []struct {
		RepoTags, Layers []string
	}
	if err := i.json("manifest.json", "", &manifest); err != nil {
		return nil, err
	}
	var found []string
	count := 0
	for _, m := range manifest {
		fits := p.Ref == ""
		for _, tag := range m.RepoTags {
			fits = fits || tag == p.Ref
		}
		if fits {
			found, count = m.Layers, count+1
		}
	}
	if count != 1 {
		return nil, fmt.Errorf("%d images of the archive are %q: name one", count, p.Ref)
	}
	var layers []Layer
	for _, path := range found {
		layers = append(layers, Layer{path, func() (io.ReadCloser, error) { return i.open(path, "") }})
	}
	return layers, nil
}

var digestForm = regexp.MustCompile(`^sha(256:[0-9a-f]{64}|512:[0-9a-f]{128})$`)

func blobPath(digest string) (string, error) {
	if !digestForm.MatchString(digest) {
		return "", fmt.Errorf("%.80q is no digest that is supported", digest)
	}
	algorithm, hex, _ := strings.Cut(digest, ":")
	return "blobs/" + algorithm + "/" + hex, nil
}

// json decodes a file of the image.
func (i ociImage) json(path, digest string, v any) error {
	r, err := i.open(path, digest)
	if err != nil {
		return err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, maxJSON+1))
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if len(text) > maxJSON {
		return fmt.Errorf("%s: %w of %d bytes", path, ErrLimit, maxJSON)
	}
	if err := json.NewDecoder(bytes.NewReader(text)).Decode(v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// open opens a file of the image. Links, which old docker archives have, are followed
// inside it.
func (i ociImage) open(path, digest string) (io.ReadCloser, error) {
	n := i.files.Root.Lookup(filepath.ToSlash(path))
	for hops := 0; n != nil && n.Kind == Symlink && hops < 4; hops++ {
		at := path[:strings.LastIndexByte(path, '/')+1] + n.Target
		path = strings.TrimPrefix(filepath.ToSlash(filepath.Clean("/"+at)), "/")
		n = i.files.Root.Lookup(path)
	}
	if n == nil || n.Kind != File {
		return nil, fmt.Errorf("the image has no file %s", path)
	}
	f, err := n.OpenContent()
	if err != nil {
		return nil, err
	}
	return newVerified(f, n.Size, path, digest), nil
}
