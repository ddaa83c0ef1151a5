package vmdk

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func openToResize(t *testing.T, path string) *block.Image {
	t.Helper()
	img, err := tryOpen(path, block.OpenOptions{Write: true, Sharing: block.Sharing{Resize: true}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// TestResize: disks grow several times, are what they were, and zeroes behind it; what a crash left behind the end of
// the disk does not come to light.
func TestResize(t *testing.T) {
	const grain = grainSectors * sectorSize
	for name, o := range map[string]opts.Dict{
		"monolithicSparse": {}, "zeroed": {"zeroed_grain": "on"}, "monolithicFlat": {"subformat": "monolithicFlat"},
		"twoGbMaxExtentSparse": {"subformat": "twoGbMaxExtentSparse"}, "twoGbMaxExtentFlat": {"subformat": "twoGbMaxExtentFlat"},
	} {
		if testkit.Race && name != "monolithicSparse" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.vmdk")
			size := int64(1<<20 + 3*sectorSize)
			create(t, path, size, o)
			m := testkit.NewModel(size)
			img := openToResize(t, path)
			for i, to := range []int64{size + sectorSize, 33 << 20, 33<<20 + grain, 66<<20 + sectorSize} {
				// The whole of the last grain holds data, also behind the end of the disk.
				off := max(0, img.Size()-2*grain)
				p := content(uint64(i), int(img.Size()-off))
				for k := range p {
					p[k] |= 1
				}
				if _, err := img.WriteAt(t.Context(), p, off); err != nil {
					t.Fatal(err)
				}
				m.Write(p, off)
				n := img.Tree().Node().(writable)
				if x := n.extents[0]; x.disk != nil && x.size.Load()%grain != 0 {
					e, err := x.disk.Entry(t.Context(), x.size.Load()/grain)
					if err != nil {
						t.Fatal(err)
					}
					if _, err := x.file.WriteAt(t.Context(), []byte("left over"), e.Host+x.size.Load()%grain); err != nil {
						t.Fatal(err)
					}
				}
				before := img.Tree().Node().(identified).CID()
				if err := img.Resize(t.Context(), to, driver.ResizeOptions{}); err != nil {
					t.Fatal(err)
				}
				m.Resize(to)
				if d := m.Diff(readAll(t, img), 0); d != "" {
					t.Fatalf("resized to %d: %s", to, d)
				}
				if i == 0 && img.Tree().Node().(identified).CID() != before {
					t.Error("two content IDs for one opening")
				}
				closeImage(t, img)
				if res := check(t, path, driver.CheckFix{}); res.Corruptions != 0 || res.Leaks != 0 {
					t.Errorf("resized to %d: %+v", to, res)
				}
				img = openToResize(t, path)
				if img.Size() != to {
					t.Fatalf("the image has %d bytes after it was opened again, want %d", img.Size(), to)
				}
			}
			if d := m.Diff(readAll(t, img), 0); d != "" {
				t.Error(d)
			}
			closeImage(t, img)
		})
	}
}

// TestResizeFlatLeftOver: what a file holds behind a flat extent is no part of the disk that grows over it.
func TestResizeFlatLeftOver(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a.vmdk")
	create(t, path, 1<<20, opts.Dict{"subformat": "monolithicFlat"})
	file := filepath.Join(dir, "a-flat.vmdk")
	write(t, file, content(3, 1<<20+5000))
	m := testkit.NewModel(1 << 20)
	m.Write(content(3, 1<<20+5000)[:1<<20], 0)
	img := openToResize(t, path)
	if err := img.Resize(t.Context(), 2<<20, driver.ResizeOptions{}); err != nil {
		t.Fatal(err)
	}
	m.Resize(2 << 20)
	if d := m.Diff(readAll(t, img), 0); d != "" {
		t.Error(d)
	}
	closeImage(t, img)
}

// TestResizeRefused: what cannot grow says why.
func TestResizeRefused(t *testing.T) {
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	create(t, at("sparse.vmdk"), 1<<20, opts.Dict{})
	create(t, at("split.vmdk"), 1<<20, opts.Dict{"subformat": "twoGbMaxExtentFlat"})
	create(t, at("over.vmdk"), 1<<20, opts.Dict{"backing_file": at("sparse.vmdk")})
	write(t, at("disk"), make([]byte, 1<<20))
	write(t, at("rdm.vmdk"), []byte(strings.Replace(head, "monolithicFlat", "vmfsRawDeviceMap", 1)+"RW 2048 VMFSRDM \"disk\"\n"))
	for _, c := range []struct {
		name string
		size int64
		want string
	}{
		{"sparse.vmdk", 1 << 19, "cannot be made smaller"}, {"sparse.vmdk", 3 << 40, "2 TiB at most"}, {"split.vmdk", 3 << 30, "2 GiB"},
		{"over.vmdk", 2 << 20, "the size of its parent"}, {"rdm.vmdk", 2 << 20, "is a device"},
	} {
		img := openToResize(t, at(c.name))
		if err := img.Resize(t.Context(), c.size, driver.ResizeOptions{}); !errors.Is(err, driver.ErrUnsupported) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s to %d: %v", c.name, c.size, err)
		}
		if img.Size() != 1<<20 {
			t.Errorf("%s has %d bytes", c.name, img.Size())
		}
		closeImage(t, img)
	}
}

// TestResizeText: the last line of an extent and the geometry follow the size, all else stays.
func TestResizeText(t *testing.T) {
	text := "# x\nversion=1\nCID=1\ncreateType=\"custom\"\nRW  10 FLAT \"10 a\" 0\r\nRDONLY 2048 SPARSE \"2048\"\n\nddb.geometry.cylinders = \"2\"\nddb.geometry.heads = \"16\"\nddb.geometry.sectors=\"63\"\n#RW 3 ZERO\n"
	want := strings.NewReplacer("RDONLY 2048", "RDONLY 100000", "cylinders = \"2\"", "cylinders = \"100\"").Replace(text)
	if got := resizeText([]byte(text+"\x00RW 7 ZERO\n"), 2058*sectorSize, 100010*sectorSize, 100000*sectorSize); string(got) != strings.Replace(want, "\"100\"", "\"99\"", 1) {
		t.Errorf("%s", got)
	}
	odd := strings.Replace(text, "cylinders = \"2\"", "cylinders = \"16383\"", 1)
	if got := resizeText([]byte(odd), 2058*sectorSize, 100010*sectorSize, 100000*sectorSize); !strings.Contains(string(got), "\"16383\"") {
		t.Errorf("%s", got)
	}
}

// TestRawDevice: raw device maps and whole devices are read and written as they are.
func TestRawDevice(t *testing.T) {
	for kind, createType := range map[string]string{"VMFSRAW": "vmfsRaw", "VMFSRDM": "vmfsRawDeviceMap", "FLAT": "fullDevice"} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.vmdk")
		disk := content(5, 1<<20)
		write(t, filepath.Join(dir, "device"), disk)
		line := "RW 2048 " + kind + " \"" + filepath.Join(dir, "device") + "\""
		if kind == "FLAT" {
			line += " 0"
		}
		write(t, path, []byte(strings.Replace(head, "monolithicFlat", createType, 1)+line+"\n"))
		img := mustOpen(t, path, true)
		if d := string(readAll(t, img)); d != string(disk) {
			t.Errorf("%s: other bytes than the device has", kind)
		}
		if _, err := img.WriteAt(t.Context(), []byte("written"), 512); err != nil {
			t.Fatal(err)
		}
		closeImage(t, img)
		if b, err := os.ReadFile(filepath.Join(dir, "device")); err != nil || string(b[512:519]) != "written" {
			t.Errorf("%s: the device has %q, %v", kind, b[512:519], err)
		}
		if _, err := tryOpen(path, block.OpenOptions{Gate: driver.DenyAll}); !errors.Is(err, driver.ErrGate) {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

// TestStaleTwins: a copy of a table that differs is told and made good; nothing that lies in its place is overwritten.
func TestStaleTwins(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, 100<<20, opts.Dict{})
	img := mustOpen(t, path, true)
	disk := content(7, 1<<20)
	for i := range disk {
		disk[i] |= 1
	}
	if _, err := img.WriteAt(t.Context(), disk, 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := decodeSparse(good)
	stale := append([]byte(nil), good...)
	for i := range 2 {
		stale[int64(le.Uint32(stale[h.redundant*sectorSize+4*uint64(i):]))*sectorSize+8]++
	}
	write(t, path, append(stale, make([]byte, 3*grainSectors*sectorSize)...))
	if res := check(t, path, driver.CheckFix{}); res.Leaks != 5 || res.Corruptions != 0 {
		t.Errorf("%+v", res)
	}
	if res := check(t, path, driver.CheckFix{Leaks: true}); res.LeaksFixed != 5 || res.Leaks != 0 || res.Corruptions != 0 {
		t.Errorf("%+v", res)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if d := int64(len(got)); d != int64(len(good)) {
		t.Errorf("the file has %d bytes, want %d", d, len(good))
	}
	for i := 20 * sectorSize; i < len(good); i++ { // behind the content ID
		if got[i] != good[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], good[i])
		}
	}
	// A copy that is said to lie where another table does.
	other := le.Uint32(stale[h.dir*sectorSize+8:])
	le.PutUint32(stale[h.redundant*sectorSize:], other)
	write(t, path, stale)
	if res := check(t, path, driver.CheckFix{Leaks: true, Errors: true}); res.Corruptions != 1 || res.LeaksFixed != 1 {
		t.Errorf("%+v", res)
	}
	if got, err = os.ReadFile(path); err != nil || len(bytes.Trim(got[int64(other)*sectorSize:][:tableSectors*sectorSize], "\x00")) > 0 {
		t.Errorf("the other table was overwritten: %v", err)
	}
	// Where a grain lies, it moves.
	le.PutUint32(stale[h.redundant*sectorSize:], uint32(h.overhead)+3)
	write(t, path, stale)
	check(t, path, driver.CheckFix{Leaks: true, Errors: true})
	if res := check(t, path, driver.CheckFix{}); res.Corruptions != 0 || res.Leaks != 0 {
		t.Errorf("%+v", res)
	}
	img = mustOpen(t, path, false)
	m := testkit.NewModel(100 << 20)
	m.Write(disk, 0)
	if d := m.Diff(readAll(t, img), 0); d != "" {
		t.Error(d)
	}
	closeImage(t, img)
}
