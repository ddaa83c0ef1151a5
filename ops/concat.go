package ops

import (
	"context"
	"io"
	"sort"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
)

// concat is several disks one after the other.
type concat struct {
	parts []*block.Image
	start []int64 // of each part
	size  int64
}

func newConcat(parts []*block.Image) *concat {
	c := &concat{parts: parts}
	for _, p := range parts {
		c.start = append(c.start, c.size)
		c.size += p.Size()
	}
	return c
}

// find returns the part that holds off and the position in it.
func (c *concat) find(off int64) (*block.Image, int64) {
	i := sort.Search(len(c.start), func(i int) bool { return c.start[i] > off }) - 1
	// An empty disk holds nothing.
	for c.parts[i].Size() == 0 {
		i--
	}
	return c.parts[i], off - c.start[i]
}

// status describes at most n bytes of the source at off, to the end of one part at
// most, and gives the position in that part. With top, only the top layer of the part
// counts.
func (c *concat) status(ctx context.Context, off, n int64, top bool) (block.Status, int64, error) {
	img, pos := c.find(off)
	n = min(n, img.Size()-pos)
	var st block.Status
	var err error
	if top {
		st, err = img.StatusLayer(ctx, pos, n)
	} else {
		st, err = img.Status(ctx, pos, n, nil)
	}
	if err == nil && st.Length == 0 {
		err = driver.Errorf(driver.ErrRange, "the image '%s' ends at %d now", img.Filename(), img.Size())
	}
	return st, pos, err
}

// read fills p, across parts.
func (c *concat) read(ctx context.Context, p []byte, off int64) error {
	for len(p) > 0 {
		img, pos := c.find(off)
		n := min(int64(len(p)), img.Size()-pos)
		if _, err := img.ReadAt(ctx, p[:n], pos); err != nil && err != io.EOF {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}
