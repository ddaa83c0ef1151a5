package ops

import (
	"context"
	"io"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/bufpool"
)

// DDJob copies N bytes of Source from SourceOffset to the start of Target, every
// byte, zeroes too.
type DDJob struct {
	Source       *block.Image
	SourceOffset int64
	Target       *block.Image
	N            int64
	Progress     ProgressFunc
}

// DD runs a DDJob.
func DD(ctx context.Context, job DDJob) error {
	if job.SourceOffset < 0 || job.N < 0 || job.N > job.Source.Size()-job.SourceOffset {
		return driver.Errorf(driver.ErrRange, "%d bytes at %d are not all in an image of %d", job.N, job.SourceOffset, job.Source.Size())
	}
	m := newMeter(job.Progress, "copy", job.N)
	buf := bufpool.Get(int(max(1, min(job.N, chunkSize))))
	defer bufpool.Put(buf)
	for off := int64(0); off < job.N; {
		p := buf[:min(job.N-off, int64(len(buf)))]
		if _, err := job.Source.ReadAt(ctx, p, job.SourceOffset+off); err != nil && err != io.EOF {
			return err
		}
		if _, err := job.Target.WriteAt(ctx, p, off); err != nil {
			return err
		}
		off += int64(len(p))
		m.set(off)
	}
	return nil
}
