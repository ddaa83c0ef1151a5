package parallels_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/parallels"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/file"
)

func openToWrite(dir string, check bool) (*block.Image, error) {
	return block.Open(context.Background(), block.NewRegistry(raw.New(), parallels.New(), file.New()), block.Source{Filename: dir},
		block.OpenOptions{Write: true, Unmap: true, Use: block.Use{Check: check}, Gate: driver.AllowAll})
}

func checkBundle(t *testing.T, dir string, fix driver.CheckFix) (*driver.CheckResult, []string) {
	t.Helper()
	img, err := openToWrite(dir, true)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	var lines []string
	res, err := img.Tree().Node().(driver.Checker).Check(t.Context(), fix, func(l string) { lines = append(lines, l) }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res, lines
}

// TestBundleWrite changes disks in several parts, alone and over snapshots, which stay what they are.
func TestBundleWrite(t *testing.T) {
	empty := hds(nil, nil, nil, nil)
	plain := make([]byte, 4*cluster)
	for name, files := range map[string]map[string][]byte{
		"chain": {"DiskDescriptor.xml": []byte(xml(2, "abt", "Compressed", shots(guidT, guidB, guidB, guidA, guidA, guid0))),
			"a.0": hds(fill(1), fill(2), fill(3), nil), "a.1": hds(nil, nil, nil, fill(4)), "b.0": hds(nil, fill(5), nil, nil), "b.1": hds(fill(6), nil, nil, nil),
			"t.0": hds(nil, nil, fill(7), nil), "t.1": empty},
		"single": {"DiskDescriptor.xml": []byte(xml(3, "a", "Compressed", "")), "a.0": empty, "a.1": hds(nil, fill(2), nil, nil), "a.2": empty},
		"plain":  {"DiskDescriptor.xml": []byte(xml(2, "a", "Plain", "")), "a.0": plain, "a.1": bytes.Repeat([]byte{9}, 4*cluster)},
	} {
		t.Run(name, func(t *testing.T) {
			dir := folder(t, files)
			img, err := openToWrite(dir, false)
			if err != nil {
				t.Fatal(err)
			}
			m := testkit.NewModel(img.Size())
			before := make([]byte, img.Size())
			if _, err := img.ReadAt(t.Context(), before, 0); err != nil {
				t.Fatal(err)
			}
			m.Write(before, 0)
			r := testkit.Rand(8)
			for i := range 400 {
				off := r.Int64N(img.Size())
				n := min(1+r.Int64N(3*cluster), img.Size()-off)
				switch i % 5 {
				case 0:
					if err := img.WriteZeroes(t.Context(), off, n, driver.ZeroFlags(r.IntN(2))*driver.ZeroMayUnmap); err != nil {
						t.Fatal(err)
					}
					m.Zero(off, n)
				case 1:
					if err := img.Discard(t.Context(), off, n); err != nil {
						t.Fatal(err)
					}
					p, old := make([]byte, n), m.Read(off, n)
					if _, err := img.ReadAt(t.Context(), p, off); err != nil {
						t.Fatal(err)
					}
					for i := range p {
						if p[i] != 0 && p[i] != old[i] {
							t.Fatalf("byte %d is %#x after a discard, and was %#x", off+int64(i), p[i], old[i])
						}
					}
					m.Write(p, off)
				default:
					p := make([]byte, n)
					testkit.Fill(r, p)
					if _, err := img.WriteAt(t.Context(), p, off); err != nil {
						t.Fatal(err)
					}
					m.Write(p, off)
				}
				if i%100 != 99 {
					continue
				}
				if err := img.Close(t.Context()); err != nil {
					t.Fatal(err)
				}
				if res, lines := checkBundle(t, dir, driver.CheckFix{}); res.Corruptions != 0 {
					t.Fatalf("%+v %q", res, lines)
				}
				if img, err = openToWrite(dir, false); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, img.Size())
				if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
					t.Fatal(err)
				}
				if d := m.Diff(got, 0); d != "" {
					t.Fatal(d)
				}
			}
			if err := img.Close(t.Context()); err != nil {
				t.Fatal(err)
			}
			for file, b := range files {
				got, err := os.ReadFile(filepath.Join(dir, file))
				if err != nil {
					t.Fatal(err)
				}
				if top := name != "chain" || strings.HasPrefix(file, "t."); !top && !bytes.Equal(got, b) {
					t.Errorf("%s was changed", file)
				}
				if top := strings.HasPrefix(file, "t."); top && binary.LittleEndian.Uint32(got[44:]) != 0 {
					t.Errorf("%s is marked as in use", file)
				}
			}
		})
	}
}

// TestBundleCheck: what is wrong with an image is told with its name, and made good in the newest.
func TestBundleCheck(t *testing.T) {
	beyond := func(b []byte) []byte {
		binary.LittleEndian.PutUint32(b[table:], 1<<20)
		return b
	}
	dir := folder(t, map[string][]byte{
		"DiskDescriptor.xml": []byte(xml(1, "at", "Compressed", shots(guidT, guidA, guidA, guid0))),
		"a.0":                beyond(hds(fill(1), nil, nil, nil)), "t.0": beyond(hds(fill(2), nil, nil, nil)),
	})
	res, lines := checkBundle(t, dir, driver.CheckFix{})
	if res.Corruptions != 2 || len(lines) < 2 || !strings.HasPrefix(lines[0], "t.0: ") {
		t.Errorf("%+v %q", res, lines)
	}
	if res, _ := checkBundle(t, dir, driver.CheckFix{Errors: true}); res.CorruptionsFixed != 1 || res.Corruptions != 1 {
		t.Errorf("%+v", res)
	}
	short := folder(t, map[string][]byte{"DiskDescriptor.xml": []byte(xml(1, "a", "Plain", "")), "a.0": make([]byte, cluster)})
	if res, _ := checkBundle(t, short, driver.CheckFix{}); res.Corruptions != 1 {
		t.Errorf("%+v", res)
	}
}

// TestBundleWriteRefused: what cannot be written safely.
func TestBundleWriteRefused(t *testing.T) {
	if _, err := openToWrite(chainOfThree(t), false); !errors.Is(err, driver.ErrReadOnly) || !strings.Contains(err.Error(), "t.1") {
		t.Error(err)
	}
	text := strings.Replace(xml(2, "a", "Compressed", ""), "a.1", "a.0", 1)
	dir := folder(t, map[string][]byte{"DiskDescriptor.xml": []byte(text), "a.0": hds(nil, nil, nil, nil)})
	if img, err := openToWrite(dir, false); err == nil {
		img.Close(t.Context())
		t.Error("a file that two parts name is written")
	}
	if _, err := block.Open(t.Context(), block.NewRegistry(raw.New(), parallels.New(), file.New()), block.Source{Filename: chainOfThree(t)},
		block.OpenOptions{Write: true, Gate: driver.AllowAll, Snapshot: guidB}); !errors.Is(err, driver.ErrReadOnly) {
		t.Error(err)
	}
}
