package partition_test

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/partition"
)

const mib = 1 << 20

func table() *partition.Table {
	return &partition.Table{DiskGUID: partition.DeriveGUID("disk"), Partitions: []partition.Partition{
		{Start: mib, Length: 3 * mib, TypeGUID: partition.TypeEFISystem, GUID: partition.DeriveGUID("p", "1"), Name: "EFI größe", Attributes: 1},
		{Number: 5, Start: 8 * mib, Length: 2 * mib, TypeGUID: partition.TypeLinuxRootX86, GUID: partition.DeriveGUID("p", "5")},
		{Start: 5 * mib, Length: mib, TypeGUID: partition.TypeLinuxFilesystem, GUID: partition.DeriveGUID("p", "2"), Bootable: true},
	}}
}

// disk is one in memory.
type disk struct{ b []byte }

func (d *disk) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(d.b).ReadAt(p, off) }
func (d *disk) WriteAt(p []byte, off int64) (int, error) {
	return copy(d.b[off:], p), nil
}

func TestWriteGPT(t *testing.T) {
	for _, unit := range []int64{512, 4096} {
		d := &disk{make([]byte, 16*mib)}
		want := table()
		want.SectorSize = unit
		if err := partition.WriteGPT(d, int64(len(d.b)), want); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"primary", "backup"} {
			if name == "backup" {
				clear(d.b[unit : unit+8])
			}
			got, err := partition.Read(d, int64(len(d.b)))
			if err != nil {
				t.Fatal(err)
			}
			if got.Scheme != partition.GPT || got.SectorSize != unit || got.DiskGUID != want.DiskGUID || got.Backup != (name == "backup") || len(got.Outside) > 0 {
				t.Errorf("%s with sectors of %d: %+v", name, unit, got)
			}
			expect := slices.Clone(want.Partitions)
			expect[0].Number, expect[2].Number, expect[2].Attributes = 1, 2, 4
			expect[1], expect[2] = expect[2], expect[1]
			if !slices.Equal(got.Partitions, expect) {
				t.Errorf("%s with sectors of %d: %+v", name, unit, got.Partitions)
			}
		}
	}
}

// TestSgdisk: sgdisk and sfdisk find nothing wrong, also after growing.
func TestSgdisk(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	check := func(what string, free string) {
		t.Helper()
		out := testkit.Run(t, "sfdisk", "-V", path) + testkit.Run(t, "sfdisk", "-l", path)
		if !strings.Contains(out, "No errors detected") || strings.Contains(out, "overlap") || !strings.Contains(out, free) {
			t.Errorf("%s: sfdisk: %s", what, out)
		}
		if testkit.Installed("sgdisk") {
			if out := testkit.Run(t, "sgdisk", "-v", path); !strings.Contains(out, "No problems found") {
				t.Errorf("%s: sgdisk: %s", what, out)
			}
		}
	}
	for _, size := range []int64{16 * mib, 16*mib + 512, 40 * mib} {
		if err := f.Truncate(size); err != nil {
			t.Fatal(err)
		}
		if size == 16*mib {
			err = partition.WriteGPT(f, size, table())
		} else {
			_, err = partition.GrowGPT(f, size)
		}
		if err != nil {
			t.Fatal(err)
		}
		check("written", "EFI System")
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(b, []byte("EFI PART")); n != 2 {
		t.Errorf("%d headers after growing", n)
	}
}

func TestWriteGPTRefuses(t *testing.T) {
	for name, change := range map[string]func(*partition.Table){
		"overlap":       func(t *partition.Table) { t.Partitions[2].Length = 4 * mib },
		"same number":   func(t *partition.Table) { t.Partitions[0].Number = 5 },
		"number":        func(t *partition.Table) { t.Partitions[0].Number = 129 },
		"negative":      func(t *partition.Table) { t.Partitions[0].Number = -1 },
		"no type":       func(t *partition.Table) { t.Partitions[0].TypeGUID = partition.GUID{} },
		"long name":     func(t *partition.Table) { t.Partitions[0].Name = strings.Repeat("n", 37) },
		"odd start":     func(t *partition.Table) { t.Partitions[0].Start++ },
		"empty":         func(t *partition.Table) { t.Partitions[0].Length = 0 },
		"in the table":  func(t *partition.Table) { t.Partitions[0].Start = 33 * 512 },
		"in the backup": func(t *partition.Table) { t.Partitions[1].Length = 8*mib - 32*512 },
		"overflow":      func(t *partition.Table) { t.Partitions[1].Length = 1<<63 - 512 },
		"sector":        func(t *partition.Table) { t.SectorSize = 1024 },
	} {
		d := &disk{make([]byte, 16*mib)}
		tab := table()
		change(tab)
		if partition.WriteGPT(d, int64(len(d.b)), tab) == nil {
			t.Errorf("%s: written", name)
		}
		if !bytes.Equal(d.b, make([]byte, len(d.b))) {
			t.Errorf("%s: something is written", name)
		}
	}
	if partition.WriteGPT(&disk{}, 1000, table()) == nil {
		t.Error("a disk of 1000 bytes")
	}
}

func TestGUIDs(t *testing.T) {
	const text = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
	g, err := partition.ParseGUID(strings.ToLower(text))
	if err != nil || g.String() != text || g != partition.TypeEFISystem {
		t.Errorf("%s %v", g, err)
	}
	for _, bad := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", ""), "C12A7328F-81F-11D2-BA4B-00A0C93EC93B", "X12A7328-F81F-11D2-BA4B-00A0C93EC93B"} {
		if _, err := partition.ParseGUID(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if partition.DeriveGUID("a", "bc") == partition.DeriveGUID("ab", "c") || partition.DeriveGUID("a").String()[14] != '4' {
		t.Error("derived identifiers")
	}
}
