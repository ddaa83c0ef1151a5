package qemunbd

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
)

const diskSize = 8 << 20

// openDisk opens a raw disk.
func openDisk(t testing.TB, disk []byte) *block.Image {
	t.Helper()
	name := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(name, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return openFile(t, name)
}

func openFile(t testing.TB, name string) *block.Image {
	t.Helper()
	img, err := block.Open(t.Context(), block.NewRegistry(drivers.All()...), block.Source{Filename: name, Format: "raw"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { img.Close(t.Context()) })
	return img
}

// putMBR writes a boot record with entries: kind, first sector, number of sectors.
func putMBR(b []byte, entries ...[3]uint32) {
	for i, e := range entries {
		at := b[446+16*i:]
		at[4] = byte(e[0])
		binary.LittleEndian.PutUint32(at[8:], e[1])
		binary.LittleEndian.PutUint32(at[12:], e[2])
	}
	b[510], b[511] = 0x55, 0xaa
}

// putGPT writes both tables of a disk with sectors of unit bytes; parts are the first
// and the last sectors.
func putGPT(disk []byte, unit int, parts ...[2]uint64) {
	putMBR(disk, [3]uint32{0xee, 1, 0xffffffff})
	last := len(disk)/unit - 1
	table := make([]byte, 128*128)
	for i, p := range parts {
		if p[1] == 0 {
			continue
		}
		e := table[128*i:]
		e[0], e[16] = 0xaf, byte(i+1)
		binary.LittleEndian.PutUint64(e[32:], p[0])
		binary.LittleEndian.PutUint64(e[40:], p[1])
	}
	for _, c := range [][3]int{{1, last, 2}, {last, 1, last - (len(table)+unit-1)/unit}} {
		h := disk[c[0]*unit:]
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], uint64(c[0]))
		binary.LittleEndian.PutUint64(h[32:], uint64(c[1]))
		binary.LittleEndian.PutUint64(h[72:], uint64(c[2]))
		binary.LittleEndian.PutUint32(h[80:], 128)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(table))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		copy(disk[c[2]*unit:], table)
	}
}

// found says where the partitions 1 to n are.
func found(t testing.TB, img *block.Image, n int) string {
	var out []string
	for i := 1; i <= n; i++ {
		p, err := findPartition(t.Context(), img, i)
		if err != nil {
			out = append(out, fmt.Sprintf("%d: %v", i, err))
			continue
		}
		out = append(out, fmt.Sprintf("%d: %d+%d", i, p.off, p.n))
	}
	return strings.Join(out, "\n")
}

func TestMBR(t *testing.T) {
	disk := make([]byte, diskSize)
	putMBR(disk, [3]uint32{0x83, 64, 100}, [3]uint32{5, 1024, 4096}, [3]uint32{}, [3]uint32{0x83, 16000, 1000})
	putMBR(disk[1024*512:], [3]uint32{0x83, 8, 100}, [3]uint32{5, 512, 512})
	putMBR(disk[1536*512:], [3]uint32{0x83, 1, 200}, [3]uint32{5, 1024, 512})
	putMBR(disk[2048*512:], [3]uint32{0x83, 2, 300}, [3]uint32{5, 512, 1}) // back to the one before
	img := openDisk(t, disk)
	const want = `1: 32768+51200
2: 524288+2097152
3: Could not find partition 3
4: Partition 4 (512000 bytes at 8192000) does not lie in the image, which has 8388608 bytes
5: 528384+51200
6: 786944+102400
7: 1049600+153600
8: 786944+102400`
	if got := found(t, img, 8); got != want {
		t.Errorf("%s", got)
	}
	if _, err := findPartition(t.Context(), openDisk(t, make([]byte, 4096)), 1); err == nil || !strings.Contains(err.Error(), "no partition table") {
		t.Errorf("%v", err)
	}
	if _, err := findPartition(t.Context(), openDisk(t, make([]byte, 100)), 1); err == nil {
		t.Error("a partition of a disk that has no sector")
	}
}

func TestGPT(t *testing.T) {
	for _, unit := range []int{512, 4096} {
		good := make([]byte, diskSize)
		putGPT(good, unit, [2]uint64{64, 127}, [2]uint64{}, [2]uint64{256, 256}, [2]uint64{300, 1 << 40})
		last := len(good) - unit
		want := fmt.Sprintf("1: %d+%d\n2: Could not find partition 2\n3: %d+%d\n4: Partition 4 does not lie in the image", 64*unit, 64*unit, 256*unit, unit)
		for name, at := range map[string][]int{"sound": nil, "header": {unit + 40}, "magic": {unit}, "entries": {2*unit + 200}, "backup": {last + 40}} {
			disk := append([]byte{}, good...)
			for _, off := range at {
				disk[off] ^= 1
			}
			if got := found(t, openDisk(t, disk), 4); got != want {
				t.Errorf("%d %s: %s", unit, name, got)
			}
		}
		for name, at := range map[string][]int{"both headers": {unit + 40, last + 40}, "both tables": {2*unit + 200, last - 128*128 + 200}} {
			disk := append([]byte{}, good...)
			for _, off := range at {
				disk[off] ^= 1
			}
			if got := found(t, openDisk(t, disk), 1); !strings.Contains(got, "The GUID partition table is damaged") {
				t.Errorf("%d %s: %s", unit, name, got)
			}
		}
	}
}

// TestSfdisk reads tables that the usual program has made.
func TestSfdisk(t *testing.T) {
	sfdisk, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Skip("sfdisk is not installed")
	}
	for _, c := range []struct{ script, want string }{
		{"label: gpt\nstart=2048,size=2048\nstart=8192,size=4096\n", "1: 1048576+1048576\n2: 4194304+2097152\n3: Could not find partition 3"},
		{"label: dos\nstart=2048,size=2048\nstart=8192,size=65536,type=5\nstart=10240,size=2048\nstart=16384,size=1000\n",
			"1: 1048576+1048576\n2: 4194304+33554432\n3: Could not find partition 3\n4: Could not find partition 4\n5: 5242880+1048576\n6: 8388608+512000\n7: Could not find partition 7"},
	} {
		name := filepath.Join(t.TempDir(), "disk")
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 64<<20); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(sfdisk, "-q", name)
		cmd.Stdin = strings.NewReader(c.script)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("sfdisk: %v\n%s", err, out)
		}
		if got := found(t, openFile(t, name), strings.Count(c.want, "\n")+1); got != c.want {
			t.Errorf("%s", got)
		}
	}
}

// FuzzPartition reads any boot record and header.
func FuzzPartition(f *testing.F) {
	disk := make([]byte, 1<<20)
	putGPT(disk, 512, [2]uint64{64, 127})
	f.Add(disk[:1024], uint8(1))
	putMBR(disk, [3]uint32{5, 0, 1})
	f.Add(disk[:512], uint8(9))
	f.Fuzz(func(t *testing.T, head []byte, number uint8) {
		disk := make([]byte, 64<<10)
		copy(disk, head)
		img := openDisk(t, disk)
		p, err := findPartition(t.Context(), img, int(number)+1)
		if err == nil && (p.off < 0 || p.n <= 0 || p.off+p.n > int64(len(disk))) {
			t.Errorf("%+v", p)
		}
	})
}
