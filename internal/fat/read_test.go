package fat_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/internal/fat"
)

// image is a volume of which only the first bytes of each part are not zero.
type image struct {
	v                 *fat.Volume
	table, root, data []byte
}

func (i *image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > i.v.Sectors*fat.SectorSize {
		return 0, io.ErrUnexpectedEOF
	}
	clear(p)
	for at, b := range map[int64][]byte{0: i.v.Head(0, 2), i.v.TableStart(): i.table, i.v.RootStart(): i.root, i.v.DataStart(): i.data} {
		if from := max(at, off); from < min(at+int64(len(b)), off+int64(len(p))) {
			copy(p[from-off:], b[from-at:])
		}
	}
	return len(p), nil
}

func newVolume(t testing.TB, bits int) *fat.Volume {
	t.Helper()
	v := &fat.Volume{Bits: bits, Sectors: map[int]int64{12: 200, 16: 5000, 32: 70000}[bits], ClusterSectors: 1, RootEntries: 32}
	if err := v.Fit(); err != nil {
		t.Fatal(err)
	}
	return v
}

var limits = fat.Limits{Entries: 50, Depth: 5, Runs: 100, Text: 1000}

// entry is one of a directory, with a long name if there is one.
func entry(short, long string, attr byte, first uint32, size uint32) []byte {
	name := [11]byte([]byte(short))
	var b []byte
	if long != "" {
		b = fat.AppendLong(b, long, name)
	}
	e := make([]byte, fat.EntrySize)
	copy(e, short)
	e[11] = attr
	fat.PutCluster(e, first)
	fat.PutTimes(e, time.Date(2020, 2, 3, 4, 5, 6, 0, time.Local))
	binary.LittleEndian.PutUint32(e[28:], size)
	return append(b, e...)
}

// make12 is a FAT12 volume with entries in its root directory and in that of cluster 2, and a
// table with these values from cluster 2 on.
func make12(t testing.TB, root, sub []byte, chain ...uint32) *image {
	v := newVolume(t, 12)
	i := &image{v: v, root: root, data: sub, table: make([]byte, 512)}
	for n, c := range v.First() {
		v.PutEntry(i.table, int64(n), c)
	}
	for n, c := range chain {
		v.PutEntry(i.table, int64(n)+2, c)
	}
	return i
}

func text(f *fat.File) string {
	s := fmt.Sprintf("%s %d %v", f.Name, f.Size, f.Runs)
	if f.Dir {
		s = f.Name + "/"
	}
	for _, c := range f.Children {
		s += " (" + text(c) + ")"
	}
	return s
}

func TestRead(t *testing.T) {
	const end = 0xfff
	join := func(b ...[]byte) []byte { return bytes.Join(b, nil) }
	label, deleted := entry("LABEL      ", "", fat.AttrLabel, 0, 0), entry("\xe5ONE    TXT", "", 0, 9, 1)
	sub := entry("SUB        ", "Sub Folder", fat.AttrDirectory, 2, 0)
	file := entry("FILE    TXT", "", fat.AttrArchive, 3, 1000)
	noted := entry("FILE    TXT", "", 0, 0, 0)
	noted[12] = 0x10
	torn := entry("TORN       ", "A torn name of several parts", 0, 0, 0)
	torn = append(torn[:32:32], torn[64:]...)
	for name, c := range map[string]struct {
		i    *image
		want string
		lost int64
	}{
		"empty":              {make12(t, nil, nil), "/", 0},
		"all":                {make12(t, join(label, deleted, sub, file), join(entry(".          ", "", fat.AttrDirectory, 2, 0), entry("A          ", "ä", 0, 5, 3)), end, 4, end, end), "/ (Sub Folder/ (ä 3 [{5 1}])) (file.txt 1000 [{3 2}])", 0},
		"pieces":             {make12(t, file, nil, 0, 7, 0, 0, 0, end), "/ (file.txt 1000 [{3 1} {7 1}])", 0},
		"lower case":         {make12(t, noted, nil), "/ (FILE.txt 0 [])", 0},
		"torn name":          {make12(t, torn, nil), "/ (torn 0 [])", 0},
		"longer chain":       {make12(t, entry("F          ", "", 0, 3, 5), nil, 0, 4, end), "/ (f 5 [{3 2}])", 0},
		"lost":               {make12(t, nil, nil, end, 4, end, 0xff7), "/", 3},
		"no cluster":         {make12(t, file[:32], nil), "", -1},
		"free":               {make12(t, entry("F          ", "", 0, 3, 5), nil), "", -1},
		"loop":               {make12(t, file, nil, 0, 3), "", -1},
		"loop of folders":    {make12(t, sub, entry("AGAIN      ", "", fat.AttrDirectory, 2, 0), end), "", -1},
		"two of one":         {make12(t, join(file, entry("G          ", "", 0, 4, 1)), nil, 0, 4, end), "", -1},
		"too short":          {make12(t, file, nil, 0, end), "", -1},
		"beyond the end":     {make12(t, file, nil, 0, 0xff0), "", -1},
		"bad cluster":        {make12(t, entry("F          ", "", 0, 3, 5), nil, 0, 0xff7), "", -1},
		"cluster 1":          {make12(t, entry("F          ", "", 0, 1, 5), nil), "", -1},
		"folder without one": {make12(t, entry("D          ", "", fat.AttrDirectory, 0, 0), nil), "", -1},
		"name twice":         {make12(t, join(entry("A          ", "same", 0, 0, 0), entry("B          ", "SAME", 0, 0, 0)), nil), "", -1},
		"slash":              {make12(t, entry("A          ", "../up", 0, 0, 0), nil), "", -1},
		"short with slash":   {make12(t, entry("A/B        ", "", 0, 0, 0), nil), "", -1},
		"dots":               {make12(t, entry("A          ", "..", 0, 0, 0), nil), "", -1},
		"NUL":                {make12(t, entry("A\x00         ", "", 0, 0, 0), nil), "", -1},
	} {
		tree, err := fat.Read(c.i, c.i.v, limits)
		switch {
		case c.lost < 0:
			if !errors.Is(err, fat.ErrInconsistent) {
				t.Errorf("%s: %v", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case "/"+strings.TrimPrefix(text(tree.Root), "/") != c.want || tree.Lost != c.lost:
			t.Errorf("%s: %s, %d lost", name, text(tree.Root), tree.Lost)
		}
	}
	i := make12(t, file, nil, 0, 4, end)
	tree, err := fat.Read(i, i.v, limits)
	if f := tree.Root.Children[0]; err != nil || !f.Modified.Equal(time.Date(2020, 2, 3, 4, 5, 6, 0, time.Local)) || f.ReadOnly {
		t.Errorf("%+v %v", f, err)
	}
}

// TestBounds: what a hostile guest can make grow is bounded.
func TestBounds(t *testing.T) {
	var many, fragments []byte
	for n := range 31 {
		many = append(many, entry(fmt.Sprintf("F%010d", n), "", 0, 0, 0)...)
	}
	small := fat.Limits{Entries: 30, Depth: 5, Runs: 100, Text: 1000}
	i := make12(t, many, nil)
	if _, err := fat.Read(i, i.v, small); !errors.Is(err, fat.ErrInconsistent) {
		t.Errorf("31 files: %v", err)
	}
	chain := make([]uint32, 180)
	for c := 0; c+2 < len(chain); c++ {
		chain[c] = uint32(c + 4) // every second one
	}
	chain[len(chain)-2] = 0xfff
	fragments = entry("F          ", "", 0, 2, 1)
	i = make12(t, fragments, nil, chain[:150]...)
	if _, err := fat.Read(i, i.v, fat.Limits{Entries: 30, Depth: 5, Runs: 20, Text: 1000}); !errors.Is(err, fat.ErrInconsistent) || !strings.Contains(err.Error(), "pieces") {
		t.Errorf("75 pieces: %v", err)
	}
	i = make12(t, many[:20*32], nil)
	if _, err := fat.Read(i, i.v, fat.Limits{Entries: 30, Depth: 5, Runs: 20, Text: 100}); !errors.Is(err, fat.ErrInconsistent) || !strings.Contains(err.Error(), "together") {
		t.Errorf("long names: %v", err)
	}
	var deep []byte // folder n is in cluster n
	table := []uint32{}
	for n := range 10 {
		d := make([]byte, 512)
		copy(d, entry("D          ", "", fat.AttrDirectory, uint32(n+3), 0))
		deep, table = append(deep, d...), append(table, 0xfff)
	}
	i = make12(t, entry("D          ", "", fat.AttrDirectory, 2, 0), deep, table...)
	if _, err := fat.Read(i, i.v, small); !errors.Is(err, fat.ErrInconsistent) || !strings.Contains(err.Error(), "within each other") {
		t.Errorf("10 folders in each other: %v", err)
	}
	i = make12(t, nil, nil)
	other := *i.v
	other.ClusterSectors = 2
	if _, err := fat.Read(i, &other, small); !errors.Is(err, fat.ErrInconsistent) {
		t.Errorf("another boot sector: %v", err)
	}
}

// FuzzRead: any tables and directories give a file system whose files have clusters of their own
// and names that are allowed, or an error.
func FuzzRead(f *testing.F) {
	all := make12(f, append(entry("SUB        ", "Sub Folder", fat.AttrDirectory, 2, 0), entry("FILE    TXT", "", 0, 3, 1000)...), entry("A          ", "ä", 0, 5, 3), 0xfff, 4, 0xfff, 0xfff)
	f.Add(byte(0), all.table, all.root, all.data)
	f.Add(byte(1), all.table, all.root, all.data)
	f.Add(byte(2), binary.LittleEndian.AppendUint32(make([]byte, 8), 0x0fffffff), []byte{}, all.root)
	f.Fuzz(func(t *testing.T, kind byte, table, root, data []byte) {
		v := newVolume(t, []int{12, 16, 32}[kind%3])
		room := func(b []byte, n int64) []byte { return b[:min(int64(len(b)), n)] }
		i := &image{v: v, table: room(table, v.TableSectors*512), root: room(root, v.RootSize()), data: room(data, v.Clusters*512)}
		tree, err := fat.Read(i, v, limits)
		if err != nil {
			return
		}
		entries, used := 0, map[uint32]bool{}
		var look func(*fat.File)
		look = func(d *fat.File) {
			names := map[string]bool{}
			for _, f := range d.Children {
				entries++
				if err := fat.CheckName(f.Name); err != nil || names[fat.Fold(f.Name)] {
					t.Fatalf("%q: %v", f.Name, err)
				}
				names[fat.Fold(f.Name)] = true
				room := int64(0)
				for _, r := range f.Runs {
					for c := r.First; c < r.First+r.Count; c++ {
						if c < 2 || int64(c) >= v.Clusters+2 || used[c] {
							t.Fatalf("%q: cluster %d", f.Name, c)
						}
						used[c] = true
					}
					room += int64(r.Count) * v.ClusterSize()
				}
				if f.Size > room {
					t.Fatalf("%q: %d bytes in %d", f.Name, f.Size, room)
				}
				look(f)
			}
		}
		look(tree.Root)
		if entries > limits.Entries {
			t.Fatalf("%d entries", entries)
		}
	})
}
