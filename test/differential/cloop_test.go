package differential

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// cloopImage makes an image of a disk, with blocks of a size in bytes.
func cloopImage(t *testing.T, disk []byte, block, level int) []byte {
	t.Helper()
	const script, table = "#!/bin/sh\n#V2.0 Format\nmodprobe cloop file=$0 && mount -r -t iso9660 /dev/cloop $1\n", 136
	n := (len(disk) + block - 1) / block
	out := make([]byte, table+(n+1)*8)
	copy(out, script)
	binary.BigEndian.PutUint32(out[128:], uint32(block))
	binary.BigEndian.PutUint32(out[132:], uint32(n))
	for i := range n + 1 {
		binary.BigEndian.PutUint64(out[table+i*8:], uint64(len(out)))
		if i == n {
			break
		}
		var b bytes.Buffer
		w, err := zlib.NewWriterLevel(&b, level)
		if err != nil {
			t.Fatal(err)
		}
		part := make([]byte, block)
		copy(part, disk[i*block:])
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		out = append(out, b.Bytes()...)
	}
	return out
}

// readsAs lets both programs copy an image to a plain file: both must succeed, with
// the same bytes, those of want if it is not nil.
func readsAs(t *testing.T, tools cliBinaries, format, path string, want []byte) {
	t.Helper()
	dir := t.TempDir()
	for i, program := range []string{tools.img, tools.ours} {
		out := filepath.Join(dir, fmt.Sprint(i))
		if o := runIn(t, dir, program, "convert", "-f", format, "-O", "raw", path, out); o.code != 0 {
			t.Errorf("%s: %s", program, o.stderr)
			return
		}
		got, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: %s reads otherwise: %d bytes, want %d", path, program, len(got), len(want))
		}
	}
}

// TestCloopRandom: disks and sizes of blocks by chance.
func TestCloopRandom(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	n := testkit.Count(12)
	for seed := range uint64(n) {
		r := testkit.Rand(seed)
		block := 512 * (1 + r.IntN(1<<r.IntN(11)))
		disk := make([]byte, 512*(1+r.IntN(4000)))
		testkit.FillDisk(r, disk)
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, cloopImage(t, disk, block, r.IntN(10)), 0o600); err != nil {
			t.Fatal(err)
		}
		whole := append(disk, make([]byte, (block-len(disk)%block)%block)...)
		readsAs(t, tools, "cloop", path, whole)
	}
}

// TestCloopByItsPacker: what the tool of the format makes.
func TestCloopByItsPacker(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	testkit.Tool(t, "create_compressed_fs")
	disk := make([]byte, 3<<20)
	testkit.FillDisk(testkit.Rand(1), disk)
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, block := range []string{"65536", "131072"} {
		path := filepath.Join(dir, "image"+block)
		testkit.Run(t, "create_compressed_fs", "-q", "-B", block, plain, path)
		readsAs(t, tools, "cloop", path, disk)
	}
}

// TestCloopCommands runs command lines by QEMU and by us.
func TestCloopCommands(t *testing.T) {
	dir := t.TempDir()
	disk := make([]byte, 1<<20)
	testkit.FillDisk(testkit.Rand(2), disk)
	image := cloopImage(t, disk, 64<<10, 6)
	be := func(name string, off int, v uint64, n int) {
		b := bytes.Clone(image)
		for i := range n {
			b[off+i] = byte(v >> (8 * (n - 1 - i)))
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, b := range map[string][]byte{"a.cloop": image, "raw.img": disk, "odd": append(bytes.Clone(disk[:1<<19]), make([]byte, 1<<19)...)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	be("b513", 128, 513, 4)
	be("b0", 128, 0, 4)
	be("bhuge", 128, 0xfffffe00, 4)
	be("n", 132, 0xffffffff, 4)
	be("many", 132, 0x4000000, 4)
	be("order", 144, 1, 8)
	be("long", 176, 1<<40, 8)
	be("script", 40, 'x', 1)
	lines := readOnlyLines("cloop", "a.cloop")
	for _, bad := range strings.Fields("b513 b0 bhuge n many order long script") {
		lines += "info -f cloop " + bad + "\ninfo " + bad + "\nconvert " + bad + " out\n"
	}
	const compressed = "the blocks are compressed, which QEMU does not tell"
	formatSessions(t, "cp "+dir+"/* .", lines, map[string]string{
		"create -f qcow2 -b a.cloop -F cloop new 2M && map --output=json new": compressed,
	})
}
