package imageopt

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
)

// openDisk opens a raw disk.
func openDisk(t testing.TB, disk []byte) *block.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	img, err := block.Open(t.Context(), block.NewRegistry(drivers.All()...), block.Source{Filename: name, Format: "raw"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(t.Context()) })
	return img
}

// found says where the partitions 1 to n are, or why they are not found.
func found(t testing.TB, img *block.Image, n int) string {
	var out []string
	for i := 1; i <= n; i++ {
		p, err := FindPartition(t.Context(), img, i)
		if err != nil {
			out = append(out, fmt.Sprintf("%d: %v", i, err))
			continue
		}
		out = append(out, fmt.Sprintf("%d: %d+%d", i, p.Start, p.Length))
	}
	return strings.Join(out, "\n")
}

// TestPartitionWords: what is found, and what -P says if it is not.
func TestPartitionWords(t *testing.T) {
	const size = 8 << 20
	gpt, damaged, mbr := make([]byte, size), make([]byte, size), make([]byte, size)
	testkit.PutGPT(gpt, 512, [2]uint64{64, 127}, [2]uint64{}, [2]uint64{300, 1 << 40})
	testkit.PutMBR(damaged, [3]uint32{0xee, 1, 0xffffffff})
	testkit.PutMBR(mbr, [3]uint32{0x83, 64, 100}, [3]uint32{5, 1024, 4096}, [3]uint32{}, [3]uint32{0x83, 16000, 1000})
	testkit.PutMBR(mbr[1024*512:], [3]uint32{0x83, 8, 100}, [3]uint32{5, 1, 0xffff})
	for name, c := range map[string]struct {
		disk []byte
		want string
	}{
		"none":        {make([]byte, 4096), "1: Could not find partition 1: the image has no partition table"},
		"no sector":   {make([]byte, 100), "1: Could not find partition 1: the image has no partition table"},
		"gpt":         {gpt, "1: 32768+32768\n2: Could not find partition 2\n3: Partition 3 does not lie in the image\n4: Could not find partition 4"},
		"damaged gpt": {damaged, "1: The GUID partition table is damaged: no GPT header at 512"},
		"mbr": {mbr, "1: 32768+51200\n2: 524288+2097152\n3: Could not find partition 3\n" +
			"4: Partition 4 (512000 bytes at 8192000) does not lie in the image, which has 8388608 bytes\n5: 528384+51200\n6: Could not find partition 6"},
	} {
		if got := found(t, openDisk(t, c.disk), strings.Count(c.want, "\n")+1); got != c.want {
			t.Errorf("%s: %s", name, got)
		}
	}
}
