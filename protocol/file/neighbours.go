package file

import (
	"os"
	"path/filepath"

	"github.com/cowl-disk/cowl/block/driver"
)

var _ driver.Neighbours = (*node)(nil)

// Neighbours implements driver.Neighbours. Links to files count as files.
func (n *node) Neighbours(dir string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Join(filepath.Dir(n.name), filepath.FromSlash(dir)))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if t := e.Type(); t.IsRegular() || t&os.ModeSymlink != 0 {
			names = append(names, e.Name())
		}
	}
	return names, nil
}
