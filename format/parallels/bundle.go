package parallels

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/qapi"
)

// maxRun bounds the work of one look for where an extent ends, in extents of images.
const maxRun = 4096

// maxImages is how many files a bundle may have open where the budget does not say.
const maxImages = 1000

// bundle is an open bundle. Nothing of it changes after Open and OpenSnapshot.
type bundle struct {
	req   *driver.OpenRequest
	desc  *descriptor
	parts []bundlePart
	files int // opened so far
}

// bundlePart is a part of the disk with its images, the newest first.
type bundlePart struct {
	start, end int64 // bytes
	layers     []layer
}

// layer is what an image has of a part: of image and plain, one is set.
type layer struct {
	name  string // of the file
	image *image
	plain driver.Storage
}

var (
	_ driver.Format         = (*bundle)(nil)
	_ driver.Snapshotter    = (*bundle)(nil)
	_ driver.SnapshotOpener = (*bundle)(nil)
)

func openBundle(ctx context.Context, req *driver.OpenRequest, snapshot string) (driver.Node, error) {
	if req.Access.Write && snapshot != "" {
		return nil, driver.Errorf(driver.ErrReadOnly, "the snapshots of a bundle of Parallels can be read only")
	}
	if err := req.Env.Budget.Descriptor("the disk descriptor", req.File.Size()); err != nil {
		return nil, err
	}
	text := make([]byte, req.File.Size())
	if _, err := req.File.ReadAt(ctx, text, 0); err != nil && err != io.EOF {
		return nil, err
	}
	d, err := decodeDescriptor(text)
	if err != nil {
		return nil, err
	}
	b := &bundle{req: req, desc: d}
	if snapshot == "" {
		err = b.load(ctx, d.Top)
	} else {
		err = b.OpenSnapshot(ctx, snapshot)
	}
	if err != nil {
		return nil, errors.Join(err, b.Close(ctx))
	}
	if req.Access.Write {
		return writableBundle{b}, nil
	}
	r := &readOnlyBundle{bundle: b}
	r.findBitmaps()
	return r, nil
}

// load opens the images of a chain.
func (b *bundle) load(ctx context.Context, guid string) error {
	chain, err := b.desc.chain(guid)
	if err != nil {
		return err
	}
	most := int64(maxImages)
	if n := b.req.Env.Budget.MaxExtentFiles; n > 0 {
		most = n
	}
	if n := int64(b.files) + int64(len(chain))*int64(len(b.desc.Storages)); n > most {
		return driver.Errorf(driver.ErrBudget, "the disk is in %d files, limit %d", n, most)
	}
	for _, s := range b.desc.Storages {
		b.parts = append(b.parts, bundlePart{start: s.Start * sectorSize, end: s.End * sectorSize})
		p := &b.parts[len(b.parts)-1]
		for i, guid := range chain {
			at := slices.IndexFunc(s.Images, func(x imageFile) bool { return sameGUID(x.GUID, guid) })
			if at < 0 {
				return corrupt("the descriptor has no image %.60s for the sectors %d to %d", guid, s.Start, s.End)
			}
			write := i == 0 && b.req.Access.Write
			if b.req.Access.Write && b.names(strings.TrimSpace(s.Images[at].File)) {
				return corrupt("the descriptor names the file '%.100s' twice", s.Images[at].File)
			}
			l, err := b.openLayer(ctx, s.Images[at], write)
			if err != nil {
				return err
			}
			p.layers = append(p.layers, l)
			if write && l.image != nil {
				if err := l.fits(*p, s.End == b.desc.Storages[len(b.desc.Storages)-1].End); err != nil {
					return err
				}
			}
			if l.plain != nil && i < len(chain)-1 {
				return corrupt("the image '%.100s' is plain, but has another one below it", s.Images[at].File)
			}
		}
	}
	return nil
}

// names says whether a file is one of those that are open.
func (b *bundle) names(file string) bool {
	return slices.ContainsFunc(b.parts, func(p bundlePart) bool {
		return slices.ContainsFunc(p.layers, func(l layer) bool { return strings.EqualFold(l.name, file) })
	})
}

// openLayer opens an image, for writing if it is the newest.
func (b *bundle) openLayer(ctx context.Context, x imageFile, write bool) (l layer, err error) {
	kind, name := strings.TrimSpace(x.Type), strings.TrimSpace(x.File)
	if kind != typeCompressed && kind != typePlain {
		return l, driver.Errorf(driver.ErrUnsupported, "an image of the type '%.40s' is not known", kind)
	}
	if err := checkName(name); err != nil {
		return l, err
	}
	l.name = name
	file, err := b.req.Env.OpenChild(ctx, driver.ChildRef{Role: fmt.Sprintf("images.%d", b.files), Filename: name, ReadOnly: !write})
	if err != nil {
		return l, err
	}
	b.files++
	if kind == typePlain {
		l.plain = file
		return l, nil
	}
	req := *b.req
	req.File = file
	req.Access.Write = write
	l.image, err = open(ctx, &req)
	if err != nil {
		return l, driver.Errorf(nil, "the image '%.100s': %w", name, err)
	}
	return l, nil
}

// Size implements driver.Node.
func (b *bundle) Size() int64 { return b.desc.Sectors * sectorSize }

// Limits implements driver.Node.
func (b *bundle) Limits() driver.Limits { return driver.Limits{} }

// Traits implements driver.Node.
func (b *bundle) Traits() driver.Traits { return driver.Traits{FixedSize: true} }

// Flush implements driver.Node.
func (b *bundle) Flush(context.Context) error { return nil }

// Close implements driver.Node.
func (b *bundle) Close(ctx context.Context) error {
	var errs []error
	for _, p := range b.parts {
		for _, l := range p.layers {
			if l.image != nil {
				errs = append(errs, l.image.Close(ctx))
			}
		}
	}
	b.parts = nil
	return errors.Join(errs...)
}

// ReadEncoded implements driver.Format: nothing is.
func (b *bundle) ReadEncoded(context.Context, []byte, int64) error {
	return driver.Errorf(driver.ErrUnsupported, "parallels images have no encoded clusters")
}

// Map implements driver.Format.
func (b *bundle) Map(ctx context.Context, off, length int64) (driver.Extent, error) {
	length = min(length, b.Size()-off)
	if length <= 0 {
		return driver.Extent{}, nil
	}
	first, err := b.one(ctx, off, length)
	for i := 0; err == nil && first.Length < length && i < maxRun; i++ {
		next, nerr := b.one(ctx, off+first.Length, length-first.Length)
		// An error is that of the next extent, which will be asked for.
		if nerr != nil || next.Kind != first.Kind || next.Child != first.Child || next.HostOffset != first.HostOffset+first.Length && next.HasOffset {
			break
		}
		first.Length += next.Length
	}
	return first, err
}

// one maps a range as far as the answer of one image goes.
func (b *bundle) one(ctx context.Context, off, length int64) (driver.Extent, error) {
	p := b.at(off)
	length = min(length, p.end-off)
	for _, l := range p.layers {
		if l.plain != nil {
			return driver.Extent{Kind: driver.ExtentData, Length: length, Child: l.plain, HostOffset: off - p.start, HasOffset: true, Recurse: true}, nil
		}
		x, err := l.image.Map(ctx, off-p.start, length)
		if err != nil || x.Kind == driver.ExtentData {
			return x, err
		}
		// What is behind the end of an image is absent in it.
		if x.Length > 0 {
			length = min(length, x.Length)
		}
	}
	return driver.Extent{Kind: driver.ExtentZero, Length: length}, nil
}

// Snapshots implements driver.Snapshotter. Names are not in the bundle.
func (b *bundle) Snapshots(context.Context) ([]qapi.SnapshotInfo, error) {
	var out []qapi.SnapshotInfo
	for _, s := range b.desc.Shots {
		if !sameGUID(s.GUID, b.desc.Top) {
			out = append(out, qapi.SnapshotInfo{ID: strings.TrimSpace(s.GUID)})
		}
	}
	return out, nil
}

// OpenSnapshot implements driver.SnapshotOpener. Braces around the identifier may be left
// out.
func (b *bundle) OpenSnapshot(ctx context.Context, id string) error {
	if !slices.ContainsFunc(b.desc.Shots, func(s shot) bool { return sameGUID(s.GUID, id) }) {
		return driver.Errorf(driver.ErrNoSnapshot, "the bundle has no snapshot '%.60s'", id)
	}
	if b.parts != nil && b.req.Access.Write {
		return driver.Errorf(driver.ErrReadOnly, "a bundle that is open for writing cannot show a snapshot")
	}
	if err := b.Close(ctx); err != nil {
		return err
	}
	return b.load(ctx, id)
}

var errReadOnlyBundle = driver.Errorf(driver.ErrUnsupported, "the snapshots of a bundle of Parallels can be read only")

// CreateSnapshot implements driver.Snapshotter.
func (b *bundle) CreateSnapshot(context.Context, driver.SnapshotRequest) (string, error) {
	return "", errReadOnlyBundle
}

// ApplySnapshot implements driver.Snapshotter.
func (b *bundle) ApplySnapshot(context.Context, string) error { return errReadOnlyBundle }

// DeleteSnapshot implements driver.Snapshotter.
func (b *bundle) DeleteSnapshot(context.Context, string, string) error { return errReadOnlyBundle }
