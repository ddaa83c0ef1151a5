package vmdk

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
)

func check(t *testing.T, path string, fix driver.CheckFix) *driver.CheckResult {
	t.Helper()
	img, err := tryOpen(path, block.OpenOptions{Write: fix != driver.CheckFix{}, Use: block.Use{Check: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer closeImage(t, img)
	res, err := img.Tree().Node().(driver.Checker).Check(context.Background(), fix, func(string) {}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// TestRepair: a grain that is there twice gets a copy, one that is not in the file is given
// up, in both copies of the tables.
func TestRepair(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.vmdk")
	create(t, path, 1<<20, opts.Dict{})
	img := mustOpen(t, path, true)
	disk := content(1, 1<<20)
	for i := range disk { // no grain is zeroes
		disk[i] |= 1
	}
	if _, err := img.WriteAt(t.Context(), disk, 0); err != nil {
		t.Fatal(err)
	}
	closeImage(t, img)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := decodeSparse(b)
	for _, dir := range []uint64{h.redundant, h.dir} {
		table := b[int64(le.Uint32(b[dir*sectorSize:]))*sectorSize:]
		copy(table[4:8], table[:4])
		le.PutUint32(table[8:], 0x7fffffff)
	}
	write(t, path, b)
	if res := check(t, path, driver.CheckFix{}); res.Corruptions != 2 {
		t.Errorf("%+v", res)
	}
	if res := check(t, path, driver.CheckFix{Leaks: true, Errors: true}); res.CorruptionsFixed != 2 || res.Corruptions != 0 {
		t.Errorf("repair: %+v", res)
	}
	if res := check(t, path, driver.CheckFix{}); res.Corruptions != 0 {
		t.Errorf("after the repair: %+v", res)
	}
	const grain = grainSectors * sectorSize
	copy(disk[grain:2*grain], disk[:grain])
	clear(disk[2*grain : 3*grain])
	img = mustOpen(t, path, true)
	m := testkit.NewModel(1 << 20)
	m.Write(disk, 0)
	if d := m.Diff(readAll(t, img), 0); d != "" {
		t.Error(d)
	}
	closeImage(t, img)
	if st, err := os.Stat(path); err != nil || st.Size() > 4<<20 {
		t.Fatalf("the file has become long: %v, %v", st, err)
	}
	if b, err = os.ReadFile(path); err != nil {
		t.Fatal(err)
	}
	a, c := int64(le.Uint32(b[h.redundant*sectorSize:]))*sectorSize, int64(le.Uint32(b[h.dir*sectorSize:]))*sectorSize
	if string(b[a:a+tableSectors*sectorSize]) != string(b[c:c+tableSectors*sectorSize]) {
		t.Error("the copies of the table differ")
	}
}

// TestLeaksBetween: grains between others that no table names any more are counted, and those at the end of the file
// given back. Copies of tables that lie among the grains are none, nor are grains of images that have zeroed ones.
func TestLeaksBetween(t *testing.T) {
	for _, resized := range []bool{false, true} {
		path := filepath.Join(t.TempDir(), "a.vmdk")
		create(t, path, 1<<20, opts.Dict{})
		img := openToResize(t, path)
		if _, err := img.WriteAt(t.Context(), content(1, 1<<20), 0); err != nil {
			t.Fatal(err)
		}
		if resized { // far enough for directories and tables behind the grains
			if err := img.Resize(t.Context(), 8<<30, driver.ResizeOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := img.WriteAt(t.Context(), content(2, 1<<20), 7<<30); err != nil {
				t.Fatal(err)
			}
		}
		closeImage(t, img)
		if res := check(t, path, driver.CheckFix{}); res.Leaks != 0 || res.Corruptions != 0 {
			t.Errorf("resized %v: %+v", resized, res)
		}
		drop := func(entries ...int64) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			h := decodeSparse(b)
			for _, dir := range []uint64{h.redundant, h.dir} {
				table := int64(le.Uint32(b[dir*sectorSize:])) * sectorSize
				for _, i := range entries {
					le.PutUint32(b[table+4*i:], 0)
				}
			}
			write(t, path, b)
		}
		drop(3, 7, 8)
		if res := check(t, path, driver.CheckFix{}); res.Leaks != 3 || res.Corruptions != 0 {
			t.Errorf("resized %v, three grains lost: %+v", resized, res)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		le.PutUint32(b[8:], le.Uint32(b[8:])|flagZeroGrain)
		write(t, path, b)
		if res := check(t, path, driver.CheckFix{}); res.Leaks != 0 || res.Corruptions != 0 {
			t.Errorf("with zeroed grains: %+v", res)
		}
		le.PutUint32(b[8:], le.Uint32(b[8:])&^flagZeroGrain)
		write(t, path, b)
		if resized {
			continue
		}
		drop(14, 15)
		if res := check(t, path, driver.CheckFix{Leaks: true}); res.LeaksFixed != 2 || res.Leaks != 3 {
			t.Errorf("repair: %+v", res)
		}
		if res := check(t, path, driver.CheckFix{}); res.Leaks != 3 || res.Corruptions != 0 {
			t.Errorf("after the repair: %+v", res)
		}
	}
}

// TestMeasure: files are as long as they were measured to be.
func TestMeasure(t *testing.T) {
	const size = 3<<20 + 512
	disk := make([]byte, size)
	for _, r := range [][2]int{{0, 100}, {200 << 10, 70 << 10}, {size - 10, 10}} {
		for i := range r[1] {
			disk[r[0]+i] = 1
		}
	}
	for _, sub := range []string{monolithicSparse, monolithicFlat, splitSparse, splitFlat} {
		dir := t.TempDir()
		path := filepath.Join(dir, "a.vmdk")
		o := opts.Dict{"subformat": sub}
		source := func(_ context.Context, off, n int64) (driver.Extent, error) {
			kind := driver.ExtentZero
			if disk[off] != 0 {
				kind = driver.ExtentData
			}
			end := off + 1
			for ; end < off+n && disk[end] == disk[off]; end++ {
			}
			return driver.Extent{Kind: kind, Length: end - off}, nil
		}
		m, err := vmdkDriver{}.Measure(t.Context(), &driver.MeasureRequest{Size: size, Options: o, Source: source})
		if err != nil {
			t.Fatal(err)
		}
		length := func() (n int64) {
			names, err := filepath.Glob(filepath.Join(dir, "a*"))
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if st, err := os.Stat(name); err == nil && (name != path || sub == monolithicSparse) {
					n += st.Size()
				}
			}
			return n
		}
		create(t, path, size, o)
		img := mustOpen(t, path, true)
		for off := 0; off < size; off += sectorSize {
			p := disk[off : off+sectorSize]
			if string(p) == string(make([]byte, sectorSize)) {
				continue
			}
			if _, err := img.WriteAt(t.Context(), p, int64(off)); err != nil {
				t.Fatal(err)
			}
		}
		if err := img.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := length(); n != m.Required {
			t.Errorf("%s: %d bytes, measured %d", sub, n, m.Required)
		}
		if _, err := img.WriteAt(t.Context(), content(2, size), 0); err != nil {
			t.Fatal(err)
		}
		closeImage(t, img)
		if n := length(); n != m.FullyAllocated {
			t.Errorf("%s: %d bytes when full, measured %d", sub, n, m.FullyAllocated)
		}
	}
	if _, err := (vmdkDriver{}).Measure(t.Context(), &driver.MeasureRequest{Size: size, Options: opts.Dict{"subformat": streamOptimized}}); err == nil {
		t.Error("a compressed image was measured")
	}
}
