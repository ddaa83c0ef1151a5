package dmg

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/applecrypt"
	"github.com/cowl-disk/cowl/internal/chunks"
	"github.com/cowl-disk/cowl/opts"
)

var desc = driver.Desc{
	Name: "dmg",
	Kind: driver.KindFormat,
	Children: []driver.ChildDesc{
		{Role: "file", Use: driver.UseMetadata},
		{Role: "segments", Use: driver.UseData, List: true, Optional: true, ByDriver: true},
	},
	Summary:     "Apple disk images (read only)",
	OpenOptions: opts.SchemaOf(applecrypt.Options{}),
}

type dmgDriver struct{}

// New returns the driver "dmg".
func New() driver.Driver { return dmgDriver{} }

var _ driver.Prober = dmgDriver{}

// Desc implements driver.Driver.
func (dmgDriver) Desc() *driver.Desc { return &desc }

const suffix = ".dmg"

// Probe implements driver.Prober. The magic is at the end of the file, so that only the
// name tells; that is a weak sign.
func (dmgDriver) Probe(_ []byte, _ int64, name string) int {
	const weak = 2
	if len(name) > len(suffix) && strings.HasSuffix(name, suffix) {
		return weak
	}
	return 0
}

// Open implements driver.Driver.
func (dmgDriver) Open(ctx context.Context, req *driver.OpenRequest) (driver.Node, error) {
	var o applecrypt.Options
	if err := desc.OpenOptions.Decode(req.Options, &o); err != nil {
		return nil, err
	}
	file, encrypted, err := o.Open(ctx, req)
	if err != nil {
		return nil, err
	}
	t, err := findTrailer(ctx, file)
	if s, ok := file.(*applecrypt.Storage); ok {
		// Version 1 of the encryption does not tell how much of the last block is data.
		for cut := int64(sectorSize); t == nil && err == nil && cut < s.BlockSize() && cut < s.Size(); cut += sectorSize {
			file = s.Shorter(cut)
			t, err = findTrailer(ctx, file)
		}
		if t == nil {
			file = s
		}
	}
	if err != nil {
		return nil, err
	}
	if t == nil {
		return openPlain(ctx, file, encrypted)
	}
	if encrypted && t.segments > 1 {
		return nil, driver.Errorf(driver.ErrUnsupported, "the image is encrypted and in segments, which is not supported")
	}
	n := &node{trailer: t, file: file, encrypted: encrypted, size: t.sectors * sectorSize, runs: runs{budget: req.Env.Budget, warn: req.Env.Warn}}
	if err := n.load(ctx, req); err != nil {
		n.runs.release()
		return nil, err
	}
	n.chunks = chunks.NewReader(chunks.Config{Decode: n.decode, Budget: req.Env.Budget})
	return n, nil
}

// openPlain opens an image that is the disk itself.
func openPlain(ctx context.Context, file driver.Storage, encrypted bool) (driver.Node, error) {
	head := make([]byte, 2048)
	got, err := file.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	head = head[:got]
	if bytes.HasPrefix(head, []byte("sprs")) {
		return nil, driver.Errorf(driver.ErrFormat, "this is a sparse image: its format is 'sparseimage'")
	}
	if !encrypted && !isPlain(head) {
		return nil, driver.Errorf(driver.ErrFormat, "could not locate UDIF trailer in dmg file")
	}
	return &plain{file: file, encrypted: encrypted}, nil
}

// load reads the tables and opens the segments.
func (n *node) load(ctx context.Context, req *driver.OpenRequest) error {
	t := n.trailer
	if t.segment > 1 {
		return driver.Errorf(driver.ErrUnsupported, "this is segment %d of %d of an image: open the first one", t.segment, t.segments)
	}
	var err error
	switch {
	case t.rsrcN > 0:
		err = n.runs.readFork(ctx, n.file, t.rsrc, t.rsrcN)
	case t.listN > 0:
		err = n.runs.readList(ctx, n.file, t.list, t.listN)
	default:
		err = driver.Errorf(driver.ErrCorrupt, "the image has neither a property list nor a resource fork")
	}
	if err == nil {
		err = n.runs.sort()
	}
	if err != nil {
		return err
	}
	length := t.length
	if t.segments <= 1 {
		// What the trailer says of the length matters for a checksum only.
		length = max(0, n.file.Size()-t.data)
	}
	n.data = &data{parts: []part{{file: n.file, pos: 0, off: t.data, length: length}}}
	return n.openSegments(ctx, req)
}

// maxSegments is how many segments an image may have; names have three digits.
const maxSegments = 999

// openSegments opens the files behind the first one.
func (n *node) openSegments(ctx context.Context, req *driver.OpenRequest) error {
	count := n.trailer.segments
	if count <= 1 {
		return nil
	}
	if limit := req.Env.Budget.MaxExtentFiles; count > maxSegments || limit > 0 && int64(count) > limit {
		return driver.Errorf(driver.ErrBudget, "the image has %d segments, which are too many", count)
	}
	base := req.Name[strings.LastIndexByte(req.Name, '/')+1:]
	base = strings.TrimSuffix(base, suffix)
	for i := uint32(2); i <= count; i++ {
		name := fmt.Sprintf("%s.%03d.dmgpart", base, i)
		s, err := req.Env.OpenChild(ctx, driver.ChildRef{Role: fmt.Sprintf("segments.%d", i-2), Filename: name, ReadOnly: true})
		if err != nil {
			return err
		}
		t, err := findTrailer(ctx, s)
		switch {
		case err != nil:
			return err
		case t == nil || t.segment != i || t.id != n.trailer.id:
			return driver.Errorf(driver.ErrCorrupt, "'%s' is not segment %d of this image", name, i)
		}
		last := n.data.parts[len(n.data.parts)-1]
		if t.running != last.pos+last.length {
			return driver.Errorf(driver.ErrCorrupt, "segment %d begins at byte %d of the data, the one before it ends at %d", i, t.running, last.pos+last.length)
		}
		n.data.parts = append(n.data.parts, part{file: s, pos: t.running, off: t.data, length: t.length})
	}
	return nil
}
