package block

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// probeGuard is how much of the start of a disk that was probed as raw is kept
// from looking like another format.
const probeGuard = 512

// probe finds the format of the image in file; score 0 means raw.
func (r *Registry) probe(ctx context.Context, file driver.Storage, name string) (driver.Driver, error) {
	size := file.Size()
	head := make([]byte, max(0, min(size, driver.ProbeBytes)))
	n, err := file.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return r.probeBytes(head[:n], size, name), nil
}

func (r *Registry) probeBytes(head []byte, size int64, name string) driver.Driver {
	var best driver.Driver
	score := 0
	for _, d := range r.list {
		p, ok := d.(driver.Prober)
		if !ok || d.Desc().Kind != driver.KindFormat {
			continue
		}
		if s := p.Probe(head, size, name); s > score {
			best, score = d, s
		}
	}
	if best == nil {
		best = r.byName["raw"]
	}
	return best
}

// guardProbe refuses a write that would make an image that was probed as raw
// look like another format the next time.
func (img *Image) guardProbe(p []byte, off int64) error {
	if off != 0 {
		// The head counts as it would lie on disk after the write.
		head := make([]byte, probeGuard)
		if _, err := img.ReadAt(context.Background(), head, 0); err != nil && err != io.EOF {
			return err
		}
		copy(head[off:], p)
		p = head
	}
	if d := img.reg.probeBytes(p[:min(len(p), driver.ProbeBytes)], img.Size(), ""); d != nil && d.Desc().Name != "raw" {
		return img.fail("write", off, driver.Errorf(driver.ErrReadOnly,
			"the format of this image was guessed as raw; writing a %s header to its start needs the format given explicitly", d.Desc().Name))
	}
	return nil
}
