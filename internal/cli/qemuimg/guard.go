package qemuimg

import (
	"fmt"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/block"
)

// inUse is the error of creating a file that is being read. It has the text of a
// refused image lock, which finds the same mistake where images are locked: not with
// -U, and not on every system.
type inUse struct{ name string }

func (e *inUse) Error() string { return `Failed to get "write" lock` }
func (e *inUse) Hint() string  { return fmt.Sprintf("Is another process using the image [%s]?", e.name) }

// refuseOverwrite refuses to create a file that one of the open images, or an image
// below it, uses.
func refuseOverwrite(target string, images ...*block.Image) error {
	st, err := os.Stat(strings.TrimPrefix(target, "file:"))
	if err != nil || !st.Mode().IsRegular() {
		return nil
	}
	for _, img := range images {
		if uses(img, st) {
			return &inUse{target}
		}
	}
	return nil
}

// uses says whether an image or one below it keeps data in a file.
func uses(img *block.Image, file os.FileInfo) bool {
	if img == nil {
		return false
	}
	if img.Unwrap() != nil {
		st, err := os.Stat(strings.TrimPrefix(img.Filename(), "file:"))
		return err == nil && os.SameFile(st, file)
	}
	for _, c := range img.Children() {
		if uses(c.Image, file) {
			return true
		}
	}
	return uses(img.Backing(), file)
}
