package incus

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/cowl-disk/cowl/squashfs"
)

// Compression is how the files of an image are compressed: the words of distrobuilder's
// --compression.
type Compression struct {
	// Method is none, gzip, bzip2, xz, lzma, zstd or lz4.
	Method string
	// Level is 0 where none is given, and HasLevel tells 0 from that.
	Level    int
	HasLevel bool
}

var levelForm = regexp.MustCompile(`^(\w+)-(\d{1,2})$`)

// methods are what Incus reads.
func methods() []string {
	return []string{"none", "gzip", "bzip2", "xz", "lzma", "zstd", "lz4"}
}

// ParseCompression reads METHOD or METHOD-LEVEL. Its errors have the words of
// distrobuilder, which takes words that it does not know for "none"; they are refused.
func ParseCompression(word string) (c Compression, err error) {
	c.Method = word
	if m := levelForm.FindStringSubmatch(word); m != nil {
		c.Method, c.HasLevel = m[1], true
		if c.Level, err = strconv.Atoi(m[2]); err != nil {
			return c, err
		}
		limits := map[string][2]int{"zstd": {1, 22}, "bzip2": {1, 9}, "gzip": {1, 9}, "lzo": {1, 9}, "lzop": {1, 9}, "lzip": {0, 9}, "lzma": {0, 9}, "xz": {0, 9}}
		limit, ok := limits[c.Method]
		if !ok {
			return c, fmt.Errorf("compression method %q does not support specifying levels", c.Method)
		}
		if c.Level < limit[0] || c.Level > limit[1] {
			return c, fmt.Errorf("invalid compression level %d for method %q", c.Level, c.Method)
		}
	}
	switch {
	case slices.Contains([]string{"lzo", "lzop", "lzip"}, c.Method):
		return c, fmt.Errorf("compression method %q is not supported: Incus refuses images with it", c.Method)
	case c.Method == "":
		c.Method = "none"
	case !slices.Contains(methods(), c.Method):
		return c, fmt.Errorf("invalid compression method %q: it is one of %v", c.Method, methods())
	}
	return c, nil
}

// Squashfs returns how a squashfs is compressed.
func (c Compression) Squashfs() (squashfs.Compression, int, error) {
	kind, ok := map[string]squashfs.Compression{"gzip": squashfs.Gzip, "lz4": squashfs.LZ4, "xz": squashfs.XZ, "zstd": squashfs.Zstd, "lzma": squashfs.LZMA}[c.Method]
	if c.HasLevel && c.Method != "gzip" && c.Method != "zstd" {
		return 0, 0, fmt.Errorf("squashfs compression method %q does not support specifying levels", c.Method)
	}
	if !ok {
		return 0, 0, fmt.Errorf("invalid squashfs compression method %q", c.Method)
	}
	return kind, c.Level, nil
}

// extension is what the name of a compressed archive ends with. Archives beside an lz4
// squashfs are plain, as those of distrobuilder.
func (c Compression) extension() string {
	return map[string]string{"gzip": ".gz", "bzip2": ".bz2", "xz": ".xz", "lzma": ".lzma", "zstd": ".zst"}[c.Method]
}
