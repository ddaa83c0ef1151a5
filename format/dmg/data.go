package dmg

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// part is the data of one segment: length bytes from byte pos of all data on are at
// offset off of file.
type part struct {
	file             driver.Storage
	pos, off, length int64
}

// data is the data of all segments in a row, as Storage that is only read.
type data struct {
	driver.Storage // nil: what is not below is not called
	parts          []part
}

// at returns the part that holds byte pos, nil beyond the end.
func (d *data) at(pos int64) *part {
	for i := range d.parts {
		if p := &d.parts[i]; pos >= p.pos && pos < p.pos+p.length {
			return p
		}
	}
	return nil
}

// Size implements driver.Storage.
func (d *data) Size() int64 {
	last := d.parts[len(d.parts)-1]
	return last.pos + last.length
}

// ReadAt implements driver.Storage.
func (d *data) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	for n < len(p) {
		s := d.at(off + int64(n))
		if s == nil {
			return n, io.EOF
		}
		in := off + int64(n) - s.pos
		q := p[n:min(int64(len(p)), int64(n)+s.length-in)]
		m, err := s.file.ReadAt(ctx, q, s.off+in)
		if n += m; err != nil || m < len(q) {
			return n, err
		}
	}
	return n, nil
}
