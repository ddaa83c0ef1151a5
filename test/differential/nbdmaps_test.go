//go:build unix

package differential

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
)

// scatter has QEMU make many small changes to an image.
func scatter(t *testing.T, image string, size, seed int64, n int) {
	t.Helper()
	r := testkit.Rand(uint64(seed))
	var script strings.Builder
	for range n {
		off := r.Int64N(size/512-128) * 512
		length := (1 + r.Int64N(128)) * 512
		switch r.IntN(8) {
		case 0:
			fmt.Fprintf(&script, "write -z %d %d\n", off, length)
		case 1:
			fmt.Fprintf(&script, "write -z -u %d %d\n", off, length)
		case 2:
			fmt.Fprintf(&script, "discard %d %d\n", off, length)
		default:
			fmt.Fprintf(&script, "write -q -P %d %d %d\n", 1+r.IntN(255), off, length)
		}
	}
	cmd := exec.Command(testkit.Tool(t, "qemu-io"), "-d", "unmap", "-f", "qcow2", image)
	cmd.Stdin = strings.NewReader(script.String())
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "failed") {
		t.Fatalf("qemu-io: %v\n%s", err, out)
	}
}

// mapFixtures makes a chain of images with many extents and with bitmaps, and a disk
// of partitions with the bitmap "p". It returns where they are.
func mapFixtures(t *testing.T) string {
	t.Helper()
	const size = 16 << 20
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	img := func(args ...string) { t.Helper(); testkit.Run(t, "qemu-img", args...) }
	img("create", "-q", "-f", "qcow2", "-o", "cluster_size=4k", at("base.qcow2"), "16M")
	img("bitmap", "--add", "-g", "4k", at("base.qcow2"), "below")
	scatter(t, at("base.qcow2"), size, 1, 300)
	img("create", "-q", "-f", "qcow2", "-o", "cluster_size=64k,extended_l2=on", "-b", "base.qcow2", "-F", "qcow2", at("top.qcow2"), "20M")
	img("bitmap", "--add", "-g", "512", at("top.qcow2"), "fine")
	scatter(t, at("top.qcow2"), size, 2, 150)
	img("bitmap", "--add", "-g", "64k", at("top.qcow2"), "coarse")
	scatter(t, at("top.qcow2"), size, 3, 150)
	img("bitmap", "--disable", at("top.qcow2"), "fine")
	img("bitmap", "--disable", at("base.qcow2"), "below")
	img("create", "-q", "-f", "qcow2", at("parts.qcow2"), "64M")
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -q -P 0 0 512", at("parts.qcow2"))
	img("bitmap", "--add", "-g", "4k", at("parts.qcow2"), "p")
	scatter(t, at("parts.qcow2"), 60<<20, 4, 300)
	writeSector(t, at("parts.qcow2"), 0, mbrSector([][3]uint32{{0x83, 2048, 40000}, {0x83, 42048, 50001}}))
	return dir
}

// writeSector writes to a qcow2 image as a guest would.
func writeSector(t *testing.T, image string, off int64, data []byte) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "sector")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	testkit.Run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -q -s %s %d %d", file, off, len(data)), image)
}

// mbrSector makes a master boot record of up to four partitions: kind, first sector
// and number of sectors.
func mbrSector(parts [][3]uint32) []byte {
	b := make([]byte, 512)
	for i, p := range parts {
		e := b[446+16*i:]
		e[4] = byte(p[0])
		for k := range 4 {
			e[8+k], e[12+k] = byte(p[1]>>(8*k)), byte(p[2]>>(8*k))
		}
	}
	b[510], b[511] = 0x55, 0xaa
	return b
}

// TestQemuNBDMaps compares all that clients can ask about extents, on images that
// have many.
func TestQemuNBDMaps(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	info := testkit.Tool(t, "nbdinfo")
	img := testkit.Tool(t, "qemu-img")
	dir := mapFixtures(t)
	for _, c := range []struct{ args, contexts string }{
		{"-r -A -f qcow2 top.qcow2", ""},
		{"-A -f qcow2 -B coarse -B fine -B below top.qcow2", "coarse fine below"},
		{"-r -f qcow2 -B coarse top.qcow2", "coarse"},
		{"-r -f qcow2 -B below base.qcow2", "below"},
		{"-A -f qcow2 -B p parts.qcow2", "p"},
		{"-A -s -f qcow2 -B fine top.qcow2", "fine"},
	} {
		t.Run(c.args, func(t *testing.T) {
			compareMaps(t, info, img, dir, c.args, c.args, theirs, ours, c.contexts)
		})
	}
	// QEMU has no -P any more: the same part by -o and the size.
	t.Run("partition", func(t *testing.T) {
		start, n := int64(42048*512), int64(50001*512)
		part := fmt.Sprintf("--image-opts -A driver=raw,offset=%d,size=%d,file.driver=qcow2,file.file.filename=parts.qcow2", start, n)
		compareMaps(t, info, img, dir, part, "-A -P 2 -f qcow2 parts.qcow2", theirs, ours, "")
	})
}

func compareMaps(t *testing.T, info, img, dir, theirArgs, ourArgs, theirs, ours, bitmaps string) {
	contexts := []string{"base:allocation"}
	if strings.Contains(ourArgs, "-A") {
		contexts = append(contexts, "qemu:allocation-depth")
	}
	for b := range strings.FieldsSeq(bitmaps) {
		contexts = append(contexts, "qemu:dirty-bitmap:"+b)
	}
	var text [2]string
	for i, program := range []string{theirs, ours} {
		args := []string{theirArgs, ourArgs}[i]
		sock, stop := nbdServe(t, dir, program, append([]string{"-e", "0"}, strings.Fields(args)...)...)
		uri := "nbd+unix:///?socket=" + sock
		text[i] = nbdRun(t, theirs, "-L", "-k", sock)
		for _, c := range contexts {
			text[i] += c + "\n" + nbdRun(t, info, "--map="+c, "--json", uri)
		}
		text[i] += nbdRun(t, img, "map", "--output=json", "-f", "raw", uri)
		stop()
	}
	if text[0] == text[1] {
		return
	}
	a, b := strings.Split(text[0], "\n"), strings.Split(text[1], "\n")
	for k := range min(len(a), len(b)) {
		if a[k] != b[k] {
			t.Fatalf("line %d of %d and %d:\n%s\n%s", k, len(a), len(b), strings.Join(a[max(0, k-3):min(k+4, len(a))], "\n"), strings.Join(b[max(0, k-3):min(k+4, len(b))], "\n"))
		}
	}
	t.Errorf("%d and %d lines", len(a), len(b))
}

// TestQemuNBDMapSlices has ours show a part of the disk: it must be that part of what
// QEMU shows of the whole. With -o QEMU has no bitmaps, takes data of
// backing files for holes, and does not get beyond a part of a sector.
func TestQemuNBDMapSlices(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	info := testkit.Tool(t, "nbdinfo")
	dir := mapFixtures(t)
	show := func(program, context, args string) []byte {
		t.Helper()
		sock, stop := nbdServe(t, dir, program, append([]string{"-e", "0", "-f", "qcow2"}, strings.Fields(args)...)...)
		defer stop()
		var list []struct{ Length, Type int }
		if err := json.Unmarshal([]byte(nbdRun(t, info, "--json", "--map="+context, "nbd+unix:///?socket="+sock)), &list); err != nil {
			t.Fatal(err)
		}
		var all []byte // a byte for each byte of the disk
		for _, e := range list {
			all = append(all, bytes.Repeat([]byte{byte(e.Type)}, e.Length)...)
		}
		return all
	}
	for _, c := range []struct {
		file, context, part string
		off, n              int
	}{
		{"top.qcow2", "base:allocation", "-o 1234944", 1234944, 20<<20 - 1234944},
		{"top.qcow2", "qemu:allocation-depth", "-o 1000", 1000, 20<<20 - 1000},
		{"top.qcow2", "fine", "-o 1234944", 1234944, 20<<20 - 1234944},
		{"top.qcow2", "below", "-o 1000", 1000, 20<<20 - 1000},
		{"parts.qcow2", "p", "-P 2", 42048 * 512, 50001 * 512},
	} {
		context, args := c.context, "-A "+c.file
		if !strings.Contains(context, ":") {
			context, args = "qemu:dirty-bitmap:"+context, "-B "+context+" "+c.file
		}
		all, got := show(theirs, context, args), show(ours, context, c.part+" "+args)
		if want := all[c.off : c.off+c.n]; !bytes.Equal(got, want) {
			t.Errorf("%+v: %d bytes are not the %d of QEMU", c, len(got), len(want))
		}
	}
}

// TestQemuNBDBitmapErrors compares what is said of bitmaps that cannot be shown.
func TestQemuNBDBitmapErrors(t *testing.T) {
	theirs, ours := nbdPrograms(t)
	dir := mapFixtures(t)
	// A program that dies leaves its bitmaps in use.
	data, err := os.ReadFile(filepath.Join(dir, "base.qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	// The name follows a record of 24 bytes whose flags are at 12. Old directories may
	// be there, too.
	found := false
	for k := 24; k < len(data)-5; k++ {
		if string(data[k:k+5]) == "below" {
			data[k-24+15] |= 1
			found = true
		}
	}
	if !found {
		t.Fatal("no directory of bitmaps")
	}
	if err := os.WriteFile(filepath.Join(dir, "inuse.qcow2"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	sock := filepath.Join(t.TempDir(), "s")
	for _, line := range []string{"-f qcow2 -B nope top.qcow2", "-f qcow2 -B below inuse.qcow2", "-r -f qcow2 -B below inuse.qcow2",
		"-f qcow2 -B fine -B nope top.qcow2", "-r -f qcow2 -B p -B nope parts.qcow2"} {
		var got [2]outcome
		for i, program := range []string{theirs, ours} {
			got[i] = runNBD(t, dir, program, append([]string{"-k", sock}, strings.Fields(line)...)...)
		}
		if got[0] != got[1] {
			t.Errorf("%s\noriginal: %+v\nours:     %+v", line, got[0], got[1])
		}
	}
}
