package qemuimg

import (
	"fmt"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/block"
)

// inUse says that a file that is about to be created is being read. It reads as
// the refusal of an image lock does, which is what finds this where images are
// locked: not with -U, and not on every system.
type inUse struct{ name string }

func (e *inUse) Error() string { return `Failed to get "write" lock` }
func (e *inUse) Hint() string  { return fmt.Sprintf("Is another process using the image [%s]?", e.name) }

// keepSources refuses to create a file that one of the open images, or what it
// rests on, lies in.
func keepSources(target string, images ...*block.Image) error {
	st, err := os.Stat(strings.TrimPrefix(target, "file:"))
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	for _, img := range images {
		if liesIn(img, st) {
			return &inUse{target}
		}
	}
	return nil
}

// liesIn says whether any part of an image lies in a file.
func liesIn(img *block.Image, file os.FileInfo) bool {
	if img == nil {
		return false
	}
	if img.Unwrap() != nil {
		st, err := os.Stat(strings.TrimPrefix(img.Filename(), "file:"))
		return err == nil && os.SameFile(st, file)
	}
	for _, c := range img.Children() {
		if liesIn(c.Image, file) {
			return true
		}
	}
	return liesIn(img.Backing(), file)
}
