package block

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// takeBacking removes the options for the backing file, and refuses those that nobody would
// heed: of a format that has no such file, and the name of another node, of which there is
// none. open says whether the chain is opened.
func takeBacking(d opts.Dict, desc *driver.Desc, open bool) (back opts.Dict, none bool, err error) {
	back = d.Sub("backing")
	v, named := d["backing"]
	delete(d, "backing")
	if named && (v == nil || opts.Text(v) == "") {
		return nil, true, nil
	}
	unknown := "backing"
	if !named {
		if len(back) == 0 || desc.HasBacking() {
			return back, false, nil
		}
		unknown += "." + back.Keys()[0]
	}
	switch {
	case !open:
		return nil, false, optionError(&opts.UnknownError{Name: unknown}, desc)
	case !desc.HasBacking():
		return nil, false, driver.Errorf(driver.ErrInvalid, "driver doesn't support backing files")
	}
	return nil, false, &OpenError{Role: "backing", Err: noNode(v)}
}

// chainLoop returns an error if the image id, called name, is in chain.
func chainLoop(chain []string, id, name string) error {
	if slices.Contains(chain, id) {
		return driver.Errorf(driver.ErrCorrupt, "the backing file chain is a loop: '%s' is in it twice", name)
	}
	return nil
}

func (op *opener) openBacking(ctx context.Context, spec nodeSpec, img *Image, o opts.Dict, chain []string) error {
	ref, err := img.backingRef(ctx)
	if err != nil {
		return err
	}
	src := Source{Options: o}
	_, namedFile := o["file.filename"]
	_, namedDriver := o["file.driver"]
	switch {
	case namedFile || namedDriver:
	case ref != nil:
		if src.Filename, err = op.findParent(ctx, img, ref); err != nil {
			return err
		}
		if _, given := o["driver"]; !given {
			src.Format = ref.Format
		}
		if err := op.o.Gate.Allow(ctx, img.Tree().File().name, "backing", src.Filename); err != nil {
			return driver.Errorf(driver.ErrGate, "%w", err)
		}
		if err := chainLoop(chain, identity(strings.TrimPrefix(src.Filename, "file:")), src.Filename); err != nil {
			return &OpenError{Path: src.Filename, Role: "backing", Err: err}
		}
	case len(o) > 0:
	default:
		return nil
	}
	access := driver.Access{Shared: driver.PermAll, NoLock: spec.access.NoLock, NoIO: spec.access.NoIO}
	if !access.NoIO {
		access.Perm = driver.PermConsistentRead
	}
	if op.o.Chain.WriteBacking && !op.wroteBacking &&
		(op.o.Chain.WriteBase == "" || ref != nil && namesBacking(img, ref.Filename, op.o.Chain.WriteBase)) {
		op.wroteBacking = true
		access.Write = true
		access.Perm |= driver.PermConsistentRead | driver.PermWrite | driver.PermResize
	}
	cache := spec.cache
	cache.WriteThrough = false
	b, err := op.open(ctx, nodeSpec{src: src, role: "backing", chain: chain, access: access, unmap: true, backing: true, cache: cache})
	if err != nil {
		return &OpenError{Path: src.Filename, Role: "backing", Err: err}
	}
	if c, ok := img.node.(driver.ParentChecker); ok {
		if err := c.CheckParent(ctx, b.skipFilters().node); err != nil {
			return &OpenError{Path: src.Filename, Role: "backing", Err: errors.Join(err, b.Close(ctx))}
		}
	}
	img.backing = b
	return nil
}
