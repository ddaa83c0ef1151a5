package partition_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/partition"
)

const diskSize = 8 << 20

// told lists what Read found, one line a partition.
func told(t *partition.Table) string {
	var out []string
	line := func(where string, p partition.Partition) {
		out = append(out, fmt.Sprintf("%s%d: %d+%d %02x", where, p.Number, p.Start, p.Length, p.Type))
	}
	for _, p := range t.Partitions {
		line("", p)
	}
	for _, p := range t.Outside {
		line("outside ", p)
	}
	return strings.Join(out, "\n")
}

func read(disk []byte) (*partition.Table, error) {
	return partition.Read(bytes.NewReader(disk), int64(len(disk)))
}

func TestMBR(t *testing.T) {
	disk := make([]byte, diskSize)
	testkit.PutMBR(disk, [3]uint32{0x83, 64, 100}, [3]uint32{5, 1024, 4096}, [3]uint32{}, [3]uint32{0x83, 16000, 1000})
	disk[446] = 0x80
	binary.LittleEndian.PutUint32(disk[440:], 0xc0ffee)
	testkit.PutMBR(disk[1024*512:], [3]uint32{0x83, 8, 100}, [3]uint32{5, 512, 512})
	testkit.PutMBR(disk[1536*512:], [3]uint32{0x82, 1, 200}, [3]uint32{0xf, 1024, 512})
	testkit.PutMBR(disk[2048*512:], [3]uint32{0x83, 2, 300})
	table, err := read(disk)
	if err != nil {
		t.Fatal(err)
	}
	const want = `1: 32768+51200 83
2: 524288+2097152 05
5: 528384+51200 83
6: 786944+102400 82
7: 1049600+153600 83
outside 4: 8192000+512000 83`
	if got := told(table); got != want {
		t.Errorf("%s", got)
	}
	if table.Scheme != partition.MBR || table.SectorSize != 512 || table.DiskID != 0xc0ffee || table.Backup {
		t.Errorf("%+v", table)
	}
	if p := table.Partitions; !p[0].Bootable || p[1].Bootable || p[0].Extended() || !p[1].Extended() {
		t.Errorf("%+v", p)
	}
	if _, ok := table.Lookup(4); ok {
		t.Error("partition 4 is not on the disk")
	}
	if p, ok := table.LookupOutside(4); !ok || p.Start != 16000*512 {
		t.Errorf("%+v, %v", p, ok)
	}
}

// TestChains are chains of logical partitions that do not end well: what comes before
// is read all the same.
func TestChains(t *testing.T) {
	for name, c := range map[string]struct {
		next    [3]uint32 // of the second record, relative to sector 1024
		damaged bool
		want    string
	}{
		"ends":             {[3]uint32{}, false, "1 5 6"},
		"back to first":    {[3]uint32{5, 0, 1}, true, "1 5 6"},
		"to itself":        {[3]uint32{5, 512, 1}, true, "1 5 6"},
		"no record there":  {[3]uint32{5, 700, 1}, true, "1 5 6"},
		"beyond the disk":  {[3]uint32{5, 0xffffffff, 1}, true, "1 5 6"},
		"partial sector":   {[3]uint32{5, diskSize/512 - 1024, 1}, true, "1 5 6"},
		"empty next entry": {[3]uint32{5, 0, 0}, false, "1 5 6"},
	} {
		disk := make([]byte, diskSize+100)
		testkit.PutMBR(disk, [3]uint32{5, 1024, 4096})
		testkit.PutMBR(disk[1024*512:], [3]uint32{0x83, 8, 100}, [3]uint32{5, 512, 512})
		testkit.PutMBR(disk[1536*512:], [3]uint32{0x83, 1, 200}, c.next)
		table, err := read(disk)
		if c.damaged != errors.Is(err, partition.ErrDamaged) || table == nil {
			t.Fatalf("%s: %v, %v", name, table, err)
		}
		var got []string
		for _, p := range table.Partitions {
			got = append(got, fmt.Sprint(p.Number))
		}
		if g := strings.Join(got, " "); g != c.want {
			t.Errorf("%s: %s", name, g)
		}
	}
}

// TestLongChain: a chain without a loop is cut off, too.
func TestLongChain(t *testing.T) {
	disk := make([]byte, diskSize)
	testkit.PutMBR(disk, [3]uint32{5, 1, 4096})
	for i := 1; i < 1000; i++ {
		testkit.PutMBR(disk[i*512:], [3]uint32{0x83, 1, 1}, [3]uint32{5, uint32(i), 1})
	}
	table, err := read(disk)
	if !errors.Is(err, partition.ErrDamaged) || table == nil || len(table.Partitions) != 125 {
		t.Errorf("%v", err)
	}
}

func TestNoTable(t *testing.T) {
	for _, n := range []int{0, 100, 512, 4096} {
		if _, err := read(make([]byte, n)); !errors.Is(err, partition.ErrNoTable) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

func TestGPT(t *testing.T) {
	for _, unit := range []int{512, 4096} {
		good := make([]byte, diskSize)
		testkit.PutGPT(good, unit, [2]uint64{64, 127}, [2]uint64{}, [2]uint64{256, 256}, [2]uint64{300, 1 << 40}, [2]uint64{300, 1 << 60}, [2]uint64{9, 8})
		last := len(good) - unit
		want := fmt.Sprintf("1: %d+%d 00\n3: %d+%d 00\noutside 4: %d+%d 00\noutside 5: 0+0 00\noutside 6: 0+0 00",
			64*unit, 64*unit, 256*unit, unit, 300*unit, (1<<40-299)*unit)
		for name, at := range map[string][]int{"sound": nil, "header": {unit + 40}, "magic": {unit}, "entries": {2*unit + 200}, "backup": {last + 40}} {
			disk := append([]byte{}, good...)
			for _, off := range at {
				disk[off] ^= 1
			}
			table, err := read(disk)
			if err != nil {
				t.Fatalf("%d %s: %v", unit, name, err)
			}
			if got := told(table); got != want {
				t.Errorf("%d %s: %s", unit, name, got)
			}
			if table.Scheme != partition.GPT || table.SectorSize != int64(unit) || table.Backup != (at != nil && name != "backup") {
				t.Errorf("%d %s: %+v", unit, name, table)
			}
			p := table.Partitions[0]
			if p.Name != "root" || !p.Bootable || p.Attributes != 4 || p.TypeGUID.String() != "000000AF-0000-0000-0000-000000000000" || p.GUID[0] != 1 {
				t.Errorf("%d %s: %+v", unit, name, p)
			}
		}
		for name, at := range map[string][]int{"both headers": {unit + 40, last + 40}, "both tables": {2*unit + 200, last - 128*128 + 200}} {
			disk := append([]byte{}, good...)
			for _, off := range at {
				disk[off] ^= 1
			}
			if table, err := read(disk); !errors.Is(err, partition.ErrDamaged) || table != nil {
				t.Errorf("%d %s: %v", unit, name, err)
			}
		}
	}
}

// TestHugeGPT: headers with a right checksum ask for more than is allowed.
func TestHugeGPT(t *testing.T) {
	for _, c := range [][2]uint32{{1025, 128}, {0xffffffff, 0xffffffff}, {128, 127}, {1, 4097}} {
		disk := make([]byte, diskSize)
		testkit.PutGPT(disk, 512, [2]uint64{64, 127})
		for _, at := range []int{512, diskSize - 512} {
			h := disk[at:]
			binary.LittleEndian.PutUint32(h[80:], c[0])
			binary.LittleEndian.PutUint32(h[84:], c[1])
			binary.LittleEndian.PutUint32(h[16:], 0)
			binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		}
		if _, err := read(disk); !errors.Is(err, partition.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("%d GPT entries of %d bytes", c[0], c[1])) {
			t.Errorf("%v: %v", c, err)
		}
	}
}

// failing is a disk that cannot be read from an offset on.
type failing struct {
	disk []byte
	from int64
}

var errMedium = errors.New("medium error")

func (f failing) ReadAt(p []byte, off int64) (int, error) {
	if off >= f.from {
		return 0, errMedium
	}
	return bytes.NewReader(f.disk).ReadAt(p, off)
}

// TestReadErrors: an error of the reader is found in that of Read.
func TestReadErrors(t *testing.T) {
	disk := make([]byte, diskSize)
	testkit.PutMBR(disk, [3]uint32{0x83, 64, 100}, [3]uint32{5, 1024, 4096})
	if table, err := partition.Read(failing{disk, 0}, diskSize); !errors.Is(err, errMedium) || table != nil {
		t.Errorf("%v", err)
	}
	if table, err := partition.Read(failing{disk, 512}, diskSize); !errors.Is(err, errMedium) || table == nil || len(table.Partitions) != 2 {
		t.Errorf("%v", err)
	}
	testkit.PutGPT(disk, 512, [2]uint64{64, 127})
	if _, err := partition.Read(failing{disk, 512}, diskSize); !errors.Is(err, errMedium) {
		t.Errorf("%v", err)
	}
	if _, err := partition.Read(bytes.NewReader(disk[:100]), diskSize); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
}

func TestSection(t *testing.T) {
	disk := make([]byte, diskSize)
	testkit.PutMBR(disk, [3]uint32{0x83, 64, 2})
	copy(disk[64*512:], "first")
	table, err := read(disk)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(table.Partitions[0].Section(bytes.NewReader(disk)))
	if err != nil || len(b) != 1024 || string(b[:5]) != "first" {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestSfdisk reads tables that the usual program has made.
func TestSfdisk(t *testing.T) {
	sfdisk, err := exec.LookPath("sfdisk")
	if err != nil {
		t.Skip("sfdisk is not installed")
	}
	const disk, kind, guid = "11111111-2222-3333-4455-66778899AABB", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "A1B2C3D4-0102-0304-0506-0708090A0B0C"
	for _, c := range []struct{ script, want, disk, kind, guid, name string }{
		{"label: gpt\nlabel-id: " + disk + "\nstart=2048,size=2048,type=" + kind + ",uuid=" + guid + ",name=\"grüße\"\nstart=8192,size=4096\n",
			"1: 1048576+1048576 00\n2: 4194304+2097152 00", disk, kind, guid, "grüße"},
		{script: "label: dos\nstart=2048,size=2048\nstart=8192,size=65536,type=5\nstart=10240,size=2048\nstart=16384,size=1000\n",
			want: "1: 1048576+1048576 83\n2: 4194304+33554432 05\n5: 5242880+1048576 83\n6: 8388608+512000 83"},
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
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		table, err := partition.Read(f, 64<<20)
		if err != nil {
			t.Fatal(err)
		}
		if got := told(table); got != c.want {
			t.Errorf("%s", got)
		}
		for _, p := range table.Partitions {
			if c.name != "" && p.Number == 1 && (p.Name != c.name || p.TypeGUID.String() != c.kind || p.GUID.String() != c.guid || table.DiskGUID.String() != c.disk) {
				t.Errorf("%+v %s %s %s", p, p.TypeGUID, p.GUID, table.DiskGUID)
			}
		}
	}
}

// FuzzRead reads any boot record and header.
func FuzzRead(f *testing.F) {
	disk := make([]byte, 64<<10)
	testkit.PutGPT(disk, 512, [2]uint64{64, 67})
	f.Add(disk[:1200])
	clear(disk)
	testkit.PutMBR(disk, [3]uint32{5, 0, 1})
	f.Add(disk[:512])
	testkit.PutMBR(disk, [3]uint32{5, 1, 1}, [3]uint32{0x83, 1, 1})
	testkit.PutMBR(disk[512:], [3]uint32{0x83, 1, 1}, [3]uint32{5, 1, 1})
	testkit.PutMBR(disk[1024:], [3]uint32{0x83, 1, 1}, [3]uint32{5, 0, 1})
	f.Add(disk[:1536])
	f.Fuzz(func(t *testing.T, head []byte) {
		disk := make([]byte, 64<<10)
		copy(disk, head)
		table, err := read(disk)
		if table == nil {
			if err == nil {
				t.Fatal("neither a table nor an error")
			}
			return
		}
		seen := map[int]bool{}
		for _, p := range table.Partitions {
			if p.Start < 0 || p.Length <= 0 || p.Start > int64(len(disk))-p.Length || p.Number < 1 || seen[p.Number] {
				t.Errorf("%+v", p)
			}
			seen[p.Number] = true
		}
		for _, p := range table.Outside {
			if p.Number < 1 || seen[p.Number] || p.Start < 0 || p.Length < 0 {
				t.Errorf("%+v", p)
			}
			seen[p.Number] = true
		}
	})
}
