package sparsebundle

import (
	"bytes"
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/applecrypt"
	"github.com/cowl-disk/cowl/internal/plist"
	"github.com/cowl-disk/cowl/opts"
)

const (
	listName  = "Info.plist"
	tokenName = "token"
	folder    = "bands"
	kind      = "com.apple.diskimage.sparsebundle"

	maxList = 1 << 20 // bytes of Info.plist
	maxSize = 1 << 60 // bytes of a disk
	minBand = 512
	maxBand = 1 << 40
	// maxUnlisted is how many bands a disk may have where the protocol lists no folders, so
	// that each of them has to be tried.
	maxUnlisted = 1 << 20

	sectorSize = 512
)

var desc = driver.Desc{
	Name:        "sparsebundle",
	Kind:        driver.KindFormat,
	Children:    []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}},
	Summary:     "Sparse bundles of macOS: folders (read only)",
	OpenOptions: opts.SchemaOf(applecrypt.Options{}),
}

type bundleDriver struct{}

// New returns the driver "sparsebundle".
func New() driver.Driver { return bundleDriver{} }

var (
	_ driver.Prober    = bundleDriver{}
	_ driver.Format    = (*node)(nil)
	_ driver.Describer = (*node)(nil)
)

// Desc implements driver.Driver.
func (bundleDriver) Desc() *driver.Desc { return &desc }

// Probe implements driver.Prober: the name of the file counts as well, so that nothing that
// a guest writes is taken for a bundle.
func (bundleDriver) Probe(head []byte, _ int64, name string) int {
	if name[strings.LastIndexAny(name, `/\`)+1:] == listName && bytes.Contains(head, []byte(kind)) {
		return 100
	}
	return 0
}

// Open implements driver.Driver.
func (bundleDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o applecrypt.Options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	if req.Access.Write {
		return nil, driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	if req.File.Size() > maxList {
		return nil, driver.Errorf(driver.ErrBudget, "a property list of %d bytes is too large, at most %d are read", req.File.Size(), maxList)
	}
	b := make([]byte, req.File.Size())
	if _, err := req.File.ReadAt(ctx, b, 0); err != nil && err != io.EOF {
		return nil, err
	}
	list, err := plist.Read(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	if list["diskimage-bundle-type"] != kind {
		return nil, driver.Errorf(driver.ErrFormat, "the property list is not that of a sparse bundle")
	}
	if v := list["bundle-backingstore-version"]; v != "" && v != "1" {
		return nil, driver.Errorf(driver.ErrUnsupported, "version '%.40s' of sparse bundles is not known", v)
	}
	n := &node{env: req.Env, open: map[int64]*openBand{}}
	if n.size, err = list.Int("size"); err != nil {
		return nil, err
	}
	if n.band, err = list.Int("band-size"); err != nil {
		return nil, err
	}
	if n.size%sectorSize != 0 || n.size > maxSize || n.band < minBand || n.band > maxBand || n.band%sectorSize != 0 {
		return nil, driver.Errorf(driver.ErrCorrupt, "a disk of %d bytes in bands of %d cannot be", n.size, n.band)
	}
	if n.keys, err = findKeys(ctx, &o, req.Env); err != nil {
		return nil, err
	}
	if n.keys != nil && n.band%n.keys.BlockSize() != 0 {
		return nil, driver.Errorf(driver.ErrCorrupt, "bands of %d bytes in encrypted blocks of %d cannot be", n.band, n.keys.BlockSize())
	}
	if err := n.list(); err != nil {
		return nil, err
	}
	return n, nil
}

// findKeys reads the file "token", which has the header of an encrypted bundle and is empty or
// absent in others.
func findKeys(ctx context.Context, o *applecrypt.Options, env *driver.Env) (*applecrypt.Keys, error) {
	token, err := env.OpenPart(ctx, driver.ChildRef{Role: tokenName, Filename: tokenName, ReadOnly: true})
	if errors.Is(err, driver.ErrNotExist) {
		return o.Keys(ctx, nil, env)
	}
	if err != nil {
		return nil, err
	}
	keys, err := o.Keys(ctx, token, env)
	if cerr := token.Close(ctx); err == nil && cerr != nil {
		return nil, cerr
	}
	return keys, err
}

// list notes which bands are there.
func (n *node) list() error {
	count := (n.size + n.band - 1) / n.band
	var names []string
	err := error(driver.ErrUnsupported)
	if n.env.Neighbours != nil {
		names, err = n.env.Neighbours(folder)
	}
	if errors.Is(err, driver.ErrNotExist) {
		return driver.Errorf(driver.ErrCorrupt, "the bundle has no folder '%s': %w", folder, err)
	}
	if err != nil {
		if count > maxUnlisted {
			return driver.Errorf(driver.ErrUnsupported, "the bundle may have %d bands, and its folder cannot be listed here: at most %d are tried: %w", count, maxUnlisted, err)
		}
		return nil
	}
	if err := n.env.Budget.Table("the list of bands", int64(len(names))*8); err != nil {
		return err
	}
	n.reserved = int64(len(names)) * 8
	n.bands = make([]int64, 0, len(names))
	for _, name := range names {
		if number, err := strconv.ParseInt(name, 16, 64); err == nil && bandName(number) == name && number < count {
			n.bands = append(n.bands, number)
		}
	}
	slices.Sort(n.bands)
	return nil
}

// bandName is the name of the file of a band.
func bandName(number int64) string { return strconv.FormatInt(number, 16) }
