// Package treehash makes a digest of a directory tree, the same inside a guest
// and outside.
package treehash

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Sum returns the number of regular files below dir and a digest of their names
// and contents. The directory lost+found, which file systems make, is left out.
func Sum(dir string) (files int, digest string, err error) {
	h := sha256.New()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == "lost+found" {
			return filepath.SkipDir
		}
		if !d.Type().IsRegular() {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%s\n", rel)
		files++
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(h, f)
		return err
	})
	return files, fmt.Sprintf("%x", h.Sum(nil)), err
}
