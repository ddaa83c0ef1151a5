package block

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block/driver"
)

// probeGuard is how much of the start of a disk that was probed as raw is kept
// from looking like another format.
const probeGuard = driver.ProbeBytes

// probedUnit is the unit of requests to such a disk.
const probedUnit = 512

// probe finds the format of the image in file.
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
		if d.Desc().Kind != driver.KindFormat {
			continue
		}
		p, ok := d.(driver.Prober)
		if !ok {
			continue
		}
		if s := p.Probe(head, size, name); s > score {
			best, score = d, s
		}
	}
	if best == nil {
		return r.fallback()
	}
	return best
}

// fallback returns the format that images have which no other format recognises.
func (r *Registry) fallback() driver.Driver {
	for _, d := range r.list {
		if d.Desc().Fallback {
			return d
		}
	}
	return nil
}

// guardProbe refuses a write that would make an image that was probed as raw look
// like another format the next time. What counts is what the start of the disk
// becomes, however the request is cut. start is held.
func (img *Image) guardProbe(ctx context.Context, p []byte, off int64) error {
	head := make([]byte, driver.ProbeBytes)
	n, err := img.ReadAt(ctx, head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	head = head[:max(n, min(int(off)+len(p), len(head)))]
	copy(head[off:], p)
	if d := img.reg.probeBytes(head, img.Size(), ""); d != nil && !d.Desc().Fallback {
		return img.fail("write", off, driver.Errorf(driver.ErrReadOnly,
			"the format of this image was guessed as raw; writing a %s header to its start needs the format given explicitly", d.Desc().Name))
	}
	return nil
}

// guardZero is guardProbe for a range that becomes zeroes.
func (img *Image) guardZero(ctx context.Context, off, n int64) error {
	return img.guardProbe(ctx, make([]byte, min(n, probeGuard-off)), off)
}
