package imageopt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/partition"
)

// MaxPartitions is the highest number of a partition that -P takes.
const MaxPartitions = 128

// FindPartition looks up partition number in the table of a disk.
func FindPartition(ctx context.Context, img *block.Image, number int) (partition.Partition, error) {
	t, err := partition.Read(img.ReaderAt(ctx), img.Size())
	if t == nil {
		if errors.Is(err, partition.ErrNoTable) {
			return partition.Partition{}, fmt.Errorf("Could not find partition %d: the image has no partition table", number)
		}
		return partition.Partition{}, tableError(err)
	}
	if p, ok := t.Lookup(number); ok {
		return p, nil
	}
	if p, ok := t.LookupOutside(number); ok {
		if t.Scheme == partition.GPT {
			return p, fmt.Errorf("Partition %d does not lie in the image", number)
		}
		return p, fmt.Errorf("Partition %d (%d bytes at %d) does not lie in the image, which has %d bytes", number, p.Length, p.Start, img.Size())
	}
	if number > 4 && err != nil && !errors.Is(err, partition.ErrDamaged) {
		return partition.Partition{}, tableError(err) // it may be in what could not be read
	}
	return partition.Partition{}, fmt.Errorf("Could not find partition %d", number)
}

// tableError words an error of package partition.
func tableError(err error) error {
	if detail, ok := strings.CutPrefix(err.Error(), partition.ErrDamaged.Error()); ok {
		return fmt.Errorf("The GUID partition table is damaged%s", detail)
	}
	return fmt.Errorf("Could not read the partition table: %w", err)
}
