package incus

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Index is a list of images as servers of simplestreams have it (streams/v1/images.json).
type Index struct {
	ContentID string             `json:"content_id"`
	DataType  string             `json:"datatype"`
	Format    string             `json:"format"`
	Products  map[string]Product `json:"products"`
}

// Product is an image with its versions.
type Product struct {
	Aliases      string             `json:"aliases"`
	Architecture string             `json:"arch"`
	OS           string             `json:"os"`
	Release      string             `json:"release"`
	ReleaseTitle string             `json:"release_title"`
	Variant      string             `json:"variant"`
	Versions     map[string]Version `json:"versions"`
}

// Version is a version of an image with its files, by what they are.
type Version struct {
	Items map[string]Item `json:"items"`
}

// Item is a file of an image. Combined sums are those of the archive with the metadata and
// the file.
type Item struct {
	FileType         string `json:"ftype"`
	Path             string `json:"path"`
	Size             int64  `json:"size"`
	SHA256           string `json:"sha256"`
	CombinedSquashfs string `json:"combined_squashfs_sha256,omitempty"`
	CombinedDisk     string `json:"combined_disk-kvm-img_sha256,omitempty"`
}

// NewIndex returns an index of one image by its files, as OpenImage takes them. prefix is
// put before the names of the files, for their paths on the server.
func NewIndex(files []string, prefix string, options fstree.Options) (*Index, error) {
	o, err := OpenImage(files, options)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	property := func(name, other string) string {
		if v := o.Metadata.Properties[name]; v != "" {
			return v
		}
		return other
	}
	items, all := map[string]Item{}, sha256.New()
	var first *Item
	for i, path := range files {
		size, sum, err := digest(path, all)
		if err != nil {
			return nil, err
		}
		item := Item{Path: prefix + filepath.Base(path), Size: size, SHA256: sum}
		combined := hex.EncodeToString(all.Sum(nil))
		switch {
		case len(files) == 1:
			item.FileType = "incus_combined.tar.gz" // whatever it is compressed with
		case i == 0:
			item.FileType = "incus.tar.xz"
			first = &item
			continue
		case o.VM:
			item.FileType, first.CombinedDisk = "disk-kvm.img", combined
		default:
			item.FileType, first.CombinedSquashfs = "squashfs", combined
		}
		items[item.FileType] = item
	}
	if first != nil {
		items[first.FileType] = *first
	}
	p := Product{OS: property("os", "unknown"), Release: property("release", "unknown"), Variant: property("variant", "default"),
		Architecture: property("architecture", o.Metadata.Architecture)}
	p.ReleaseTitle = p.Release
	name := strings.ToLower(p.OS)
	p.Aliases = name + "/" + p.Release + "/" + p.Variant
	if p.Variant == "default" {
		p.Aliases += "," + name + "/" + p.Release
	}
	serial := property("serial", time.Unix(o.Metadata.CreationDate, 0).UTC().Format("20060102_1504"))
	p.Versions = map[string]Version{serial: {Items: items}}
	id := strings.Join([]string{name, p.Release, p.Architecture, p.Variant}, ":")
	return &Index{ContentID: "images", DataType: "image-downloads", Format: "products:1.0", Products: map[string]Product{id: p}}, nil
}

// Add takes the products of another index in. A version that is there already gets its
// files; it fails where the same image has another archive of metadata, for which the
// sums of the files that are there would be wrong.
func (x *Index) Add(other *Index) error {
	if x.Products == nil {
		x.Products = map[string]Product{}
	}
	for id, p := range other.Products {
		old, ok := x.Products[id]
		if !ok {
			x.Products[id] = p
			continue
		}
		if old.Versions == nil {
			old.Versions = map[string]Version{}
			x.Products[id] = old
		}
		for serial, v := range p.Versions {
			have := old.Versions[serial]
			if have.Items == nil {
				old.Versions[serial] = v
				continue
			}
			for kind, item := range v.Items {
				known, ok := have.Items[kind]
				if ok && known.SHA256 != item.SHA256 && known.CombinedDisk+known.CombinedSquashfs != "" {
					return fmt.Errorf("version %s of %s has another %s: make the images of a version with one definition and one time, or give this one a serial of its own", serial, id, known.Path)
				}
				item.CombinedDisk = cmp.Or(item.CombinedDisk, known.CombinedDisk)
				item.CombinedSquashfs = cmp.Or(item.CombinedSquashfs, known.CombinedSquashfs)
				have.Items[kind] = item
			}
		}
	}
	return nil
}

// digest returns the size and the SHA-256 of a file, which all takes, too.
func digest(path string, all io.Writer) (size int64, sum string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	h := sha256.New()
	size, err = io.Copy(io.MultiWriter(h, all), f)
	if err := errors.Join(err, f.Close()); err != nil {
		return 0, "", fmt.Errorf("%s: %w", path, err)
	}
	return size, hex.EncodeToString(h.Sum(nil)), nil
}
