package differential

import (
	"bytes"
	"compress/zlib"
	"encoding/base64"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// dmgImage makes an image of a disk in several tables of zlib chunks, plain bytes and
// zeroes, with chunks and tables of random lengths.
func dmgImage(t *testing.T, seed uint64, disk []byte) []byte {
	t.Helper()
	r := testkit.Rand(seed)
	be := binary.BigEndian
	var data, list []byte
	list = append(list, "<plist version=\"1.0\">\n<dict><key>resource-fork</key><dict><key>blkx</key><array>\n"...)
	for off := 0; off < len(disk); {
		end := min(off+512*(1+r.IntN(2000)), len(disk))
		mish := make([]byte, 204)
		copy(mish, "mish")
		be.PutUint64(mish[8:], uint64(off/512))
		be.PutUint64(mish[16:], uint64((end-off)/512))
		run := func(kind uint32, sector, count, pos, length int) {
			e := make([]byte, 40)
			be.PutUint32(e, kind)
			be.PutUint64(e[8:], uint64(sector))
			be.PutUint64(e[16:], uint64(count))
			be.PutUint64(e[24:], uint64(pos))
			be.PutUint64(e[32:], uint64(length))
			mish = append(mish, e...)
		}
		for at := off; at < end; {
			p := disk[at:min(at+512*(1+r.IntN(600)), end)]
			at += len(p)
			sector := (at - len(p) - off) / 512
			switch {
			case bytes.Count(p, []byte{0}) == len(p):
				run(uint32(r.IntN(2)*2), sector, len(p)/512, len(data), 0)
			case r.IntN(3) == 0:
				run(1, sector, len(p)/512, len(data), len(p))
				data = append(data, p...)
			default:
				var b bytes.Buffer
				w := zlib.NewWriter(&b)
				_, _ = w.Write(p)
				_ = w.Close()
				run(0x80000005, sector, len(p)/512, len(data), b.Len())
				data = append(data, b.Bytes()...)
			}
		}
		run(0xffffffff, (end-off)/512, 0, len(data), 0)
		be.PutUint32(mish[200:], uint32(len(mish)-204)/40)
		list = append(list, "<dict><key>Data</key><data>\n\t"+base64.StdEncoding.EncodeToString(mish)+"\n</data></dict>\n"...)
		off = end
	}
	list = append(list, "</array></dict></dict></plist>\n"...)
	k := make([]byte, 512)
	copy(k, "koly")
	be.PutUint32(k[4:], 4)
	be.PutUint32(k[8:], 512)
	be.PutUint64(k[32:], uint64(len(data)))
	be.PutUint64(k[216:], uint64(len(data)))
	be.PutUint64(k[224:], uint64(len(list)))
	be.PutUint64(k[492:], uint64(len(disk)/512))
	return append(append(data, list...), k...)
}

// TestDmgRandom: disks in chunks and tables by chance.
func TestDmgRandom(t *testing.T) {
	t.Parallel()
	tools := needCLI(t)
	n := testkit.Count(12)
	for seed := range uint64(n) {
		r := testkit.Rand(seed)
		disk := make([]byte, 512*(1+r.IntN(6000)))
		testkit.FillDisk(r, disk)
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, dmgImage(t, seed, disk), 0o600); err != nil {
			t.Fatal(err)
		}
		readsAs(t, tools, "dmg", path, disk)
	}
}

// TestDmgCommands runs command lines by QEMU and by us.
func TestDmgCommands(t *testing.T) {
	dir := t.TempDir()
	disk := make([]byte, 1<<20)
	testkit.FillDisk(testkit.Rand(2), disk)
	image := dmgImage(t, 1, disk)
	koly := len(image) - 512
	files := map[string][]byte{"a.dmg": image, "raw.img": disk, "odd": append(bytes.Clone(disk[:1<<19]), make([]byte, 1<<19)...),
		"renamed": image, "none.dmg": bytes.Repeat([]byte("x"), 5000), "tiny.dmg": []byte("tiny"), ".dmg": image, "padded.dmg": append(bytes.Clone(image), make([]byte, 77)...)}
	for name, c := range map[string]struct {
		off int
		v   uint64
	}{"data.dmg": {24, 1 << 62}, "list.dmg": {216, 1 << 40}, "length.dmg": {224, 1 << 40}, "fork.dmg": {40, 1 << 62}, "sectors.dmg": {492, 1 << 63}, "nolist.dmg": {224, 0}} {
		b := bytes.Clone(image)
		binary.BigEndian.PutUint64(b[koly+c.off:], c.v)
		files[name] = b
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const (
		extents = "QEMU does not tell what is zero, compressed, or where data lies"
		checks  = "the checksums of the image are checked"
		reasons = "QEMU says no more than 'Invalid argument'"
	)
	lines := readOnlyLines("dmg", "a.dmg")
	for _, name := range strings.Fields("renamed none.dmg tiny.dmg .dmg padded.dmg data.dmg list.dmg length.dmg fork.dmg sectors.dmg nolist.dmg") {
		lines += "info " + name + "\ninfo -f dmg " + name + "\n"
	}
	differences := map[string]string{
		"check a.dmg": checks, "check --output=json a.dmg": checks,
		"create -f qcow2 -b a.dmg -F dmg new 2M && map --output=json new": extents,
	}
	for _, name := range strings.Fields("data.dmg list.dmg length.dmg fork.dmg sectors.dmg nolist.dmg") {
		differences["info "+name], differences["info -f dmg "+name] = reasons, reasons
	}
	formatSessions(t, "cp -a "+dir+"/. .", lines, differences)
}
