package differential

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// bochsGrowing makes a growing redolog of a disk, with the sectors that are not zero,
// or a few that are.
func bochsGrowing(disk []byte, version uint32, extent int) []byte {
	n := (len(disk) + extent - 1) / extent
	out := make([]byte, 512+n*4)
	copy(out, "Bochs Virtual HD Image")
	copy(out[32:], "Redolog")
	copy(out[48:], "Growing")
	bitmap := max(1, extent/512/8)
	for i, v := range []uint32{version, 512, uint32(n), uint32(bitmap), uint32(extent)} {
		binary.LittleEndian.PutUint32(out[64+4*i:], v)
	}
	at := 84
	if version == 0x20000 {
		at = 88
	}
	binary.LittleEndian.PutUint64(out[at:], uint64(len(disk)))
	room := (bitmap + 511) / 512 * 512
	next := uint32(0)
	for i := n - 1; i >= 0; i-- {
		one, used := make([]byte, room+extent), false
		for s := 0; s < extent/512 && i*extent+s*512 < len(disk); s++ {
			sector := disk[i*extent+s*512:][:512]
			if bytes.Count(sector, []byte{0}) < 512 || s%50 == 7 {
				one[s/8] |= 1 << (s % 8)
				copy(one[room+s*512:], sector)
				used = true
			}
		}
		binary.LittleEndian.PutUint32(out[512+i*4:], 0xffffffff)
		if used {
			out = append(out, one...)
			binary.LittleEndian.PutUint32(out[512+i*4:], next)
			next++
		}
	}
	return out
}

// TestBochsRandom: disks, versions and sizes of extents by chance.
func TestBochsRandom(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	n := testkit.Count(12)
	for seed := range uint64(n) {
		r := testkit.Rand(seed)
		disk := make([]byte, 512*(1+r.IntN(6000)))
		testkit.FillDisk(r, disk)
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, bochsGrowing(disk, 0x10000*uint32(1+r.IntN(2)), 512<<r.IntN(15)), 0o600); err != nil {
			t.Fatal(err)
		}
		readsAs(t, tools, "bochs", path, disk)
	}
}

// TestBochsByItsTool: what bximage makes, also in the mode that QEMU does not
// read.
func TestBochsByItsTool(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	testkit.Tool(t, "bximage")
	disk := make([]byte, 5<<20)
	testkit.FillDisk(testkit.Rand(1), disk)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"growing", "sparse"} {
		path := filepath.Join(dir, mode)
		testkit.Run(t, "bximage", "-q", "-func=convert", "-imgmode="+mode, plain, path)
		if mode == "growing" {
			readsAs(t, tools, "bochs", path, disk)
		}
		back := filepath.Join(dir, mode+".raw")
		if o := runIn(t, dir, tools.ours, "convert", "-O", "raw", path, back); o.code != 0 {
			t.Errorf("%s: %s", mode, o.stderr)
			continue
		}
		got, err := os.ReadFile(back)
		if err != nil || !bytes.Equal(got, disk) {
			t.Errorf("%s reads otherwise: %d bytes, want %d; %v", mode, len(got), len(disk), err)
		}
	}
}

// TestBochsCommands runs command lines by QEMU and by us.
func TestBochsCommands(t *testing.T) {
	dir := t.TempDir()
	disk := make([]byte, 1<<20)
	testkit.FillDisk(testkit.Rand(2), disk)
	image := bochsGrowing(disk, 0x20000, 4096)
	le := func(name string, off int, v uint64, n int) {
		b := bytes.Clone(image)
		for i := range n {
			b[off+i] = byte(v >> (8 * i))
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"a.bochs": image, "raw.img": disk, "odd": append(bytes.Clone(disk[:1<<19]), make([]byte, 1<<19)...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	le("negative", 72, 0xffffffff, 4)
	le("overflow", 72, 0x40000000, 4)
	le("small", 72, 3, 4)
	le("disk", 88, 1<<62, 8)
	le("extent", 80, 0x80000000, 4)
	le("zero", 80, 0, 4)
	le("power", 80, 5000, 4)
	le("version", 64, 3, 4)
	le("type", 32, 'x', 1)
	lines := readOnlyLines("bochs", "a.bochs")
	for _, bad := range strings.Fields("negative overflow small disk extent zero power version type") {
		lines += "info -f bochs " + bad + "\nconvert -f bochs -O raw " + bad + " out\n"
	}
	const extents = "QEMU does not tell what is zero"
	formatSessions(t, "cp "+dir+"/* .", lines+"map --output=json a.bochs\n", map[string]string{
		"map --output=json a.bochs": extents,
		"create -f qcow2 -b a.bochs -F bochs new 2M && map --output=json new": extents,
	})
}
