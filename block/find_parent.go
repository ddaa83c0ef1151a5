package block

import (
	"context"
	"io"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

// maxNeighbours bounds how many files are looked at for a parent.
const maxNeighbours = 1000

// findParent returns the name of the image that img names by an identifier only: under
// the name that ref gives, or else among the files beside img and in the folder above
// with the ending that ref gives. The gate is asked for each of them.
func (op *opener) findParent(ctx context.Context, img *Image, ref *driver.BackingRef) (string, error) {
	f, ok := img.node.(driver.ParentFinder)
	if !ok || ref.Ending == "" {
		return img.Tree().Resolve(ref.Filename)
	}
	candidates := []string{ref.Filename}
	if n, ok := Ability[driver.Neighbours](img.Tree().Protocol()); ok {
		for _, dir := range []string{".", ".."} {
			names, err := n.Neighbours(dir)
			if err != nil {
				continue // a folder that cannot be listed has nothing to offer
			}
			for _, name := range names {
				if strings.HasSuffix(strings.ToLower(name), ref.Ending) {
					candidates = append(candidates, strings.TrimPrefix(dir+"/"+name, "./"))
				}
			}
		}
	}
	for _, name := range candidates[:min(len(candidates), maxNeighbours)] {
		path, err := img.Tree().Resolve(name)
		if err != nil {
			return "", err
		}
		if err := op.o.Gate.Allow(ctx, img.Tree().File().name, "backing", path); err != nil {
			return "", driver.Errorf(driver.ErrGate, "%w", err)
		}
		if head, err := op.head(ctx, path); err == nil && f.IsParent(head) {
			return path, nil
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
	}
	return "", driver.Errorf(driver.ErrNotExist, "no image beside '%s' is the parent that it names by the identifier %s", img.Tree().File().name,
		strings.TrimSuffix(ref.Filename, ref.Ending))
}

// head returns the start of a file.
func (op *opener) head(ctx context.Context, path string) ([]byte, error) {
	proto, _, err := op.reg.protocolFor(path)
	if err != nil {
		return nil, err
	}
	file, err := Open(ctx, op.reg, Source{Filename: path, Format: proto.Desc().Name},
		OpenOptions{Gate: driver.DenyAll, Objects: op.o.Objects, Sharing: Sharing{Force: true}, Budget: op.o.Budget})
	if err != nil {
		return nil, err
	}
	defer file.Close(ctx)
	b := make([]byte, driver.ProbeBytes)
	n, err := file.ReadAt(ctx, b, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b[:n], nil
}
