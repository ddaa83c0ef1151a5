package sparsebundle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/applecrypt/applecrypttest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/file"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func list(size, band string) string {
	return fmt.Sprintf(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict>
<key>CFBundleInfoDictionaryVersion</key><string>6.0</string>
<key>band-size</key><integer>%s</integer>
<key>bundle-backingstore-version</key><integer>1</integer>
<key>diskimage-bundle-type</key><string>com.apple.diskimage.sparsebundle</string>
<key>size</key><integer>%s</integer>
</dict></plist>`, band, size)
}

// parts returns the files of a bundle: bands without their zeroes at the end, and none where
// nothing is left.
func parts(disk []byte, band int) map[string][]byte {
	out := map[string][]byte{listName: []byte(list(fmt.Sprint(len(disk)), fmt.Sprint(band))), "token": nil}
	for i := 0; i*band < len(disk); i++ {
		p := bytes.TrimRight(disk[i*band:min(len(disk), (i+1)*band)], "\x00")
		if len(p) > 0 {
			out[fmt.Sprintf("bands/%x", i)] = p
		}
	}
	return out
}

func inFolder(t testing.TB, files map[string][]byte) string {
	dir := filepath.Join(t.TempDir(), "a.sparsebundle")
	if err := os.MkdirAll(filepath.Join(dir, "bands"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, b := range files {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func inMemory(t testing.TB, m *mem.Driver, files map[string][]byte) string {
	for name, b := range files {
		d := mem.NewDisk(0)
		if _, err := d.WriteAt(t.Context(), b, 0); err != nil {
			t.Fatal(err)
		}
		m.Add("a.sparsebundle/"+name, d)
	}
	return "mem:a.sparsebundle/" + listName
}

func openAt(t testing.TB, m driver.Driver, name string, gate driver.Gate) (*block.Image, error) {
	return block.Open(t.Context(), block.NewRegistry(raw.New(), New(), file.New(), m), block.Source{Filename: name}, block.OpenOptions{Gate: gate})
}

// TestRead reads disks of more bands than are open at a time, from folders and where no
// folder can be listed, in several goroutines.
func TestRead(t *testing.T) {
	for _, band := range []int{512, 1024, 64 << 10} {
		disk := make([]byte, 60*band+512)
		testkit.Fill(testkit.Rand(uint64(band)), disk)
		clear(disk[10*band : 20*band+100])
		m := mem.New().(*mem.Driver)
		files := parts(disk, band)
		files["bands/7fffffff"], files["bands/0F"], files["bands/-1"] = []byte("x"), []byte("x"), []byte("x")
		for _, name := range []string{inFolder(t, files), inMemory(t, m, files)} {
			img, err := openAt(t, m, name, driver.AllowAll)
			if err != nil {
				t.Fatal(err)
			}
			if img.Format() != "sparsebundle" || img.Size() != int64(len(disk)) {
				t.Fatalf("%s of %d bytes", img.Format(), img.Size())
			}
			var wg sync.WaitGroup
			for g := range 4 {
				wg.Go(func() {
					r := testkit.Rand(uint64(g))
					for range 100 {
						off := r.IntN(len(disk))
						p := make([]byte, 1+r.IntN(min(3*band, len(disk)-off)))
						if _, err := img.ReadAt(t.Context(), p, int64(off)); err != nil {
							t.Error(err)
						} else if !bytes.Equal(p, disk[off:off+len(p)]) {
							t.Errorf("%d bytes at %d differ", len(p), off)
						}
					}
				})
			}
			wg.Wait()
			got := make([]byte, len(disk))
			if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) {
				t.Errorf("the disk differs: %v", err)
			}
			if open := len(img.Tree().Node().(*node).open); open > maxOpen || open < 20 {
				t.Errorf("%d bands are open", open)
			}
			if err := img.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}
}

// TestMap: a band is named with the offset in it; absent ones are one extent.
func TestMap(t *testing.T) {
	dir := inFolder(t, map[string][]byte{listName: []byte(list("1152921504606846976", "8388608")), "bands/a": make([]byte, 4096), "bands/fffff": []byte("x")})
	img, err := openAt(t, mem.New(), dir, driver.AllowAll)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	const band = 8 << 20
	st, err := img.Status(t.Context(), 100, 1<<60, nil)
	if err != nil || !st.Zero || st.Length != 10*band-100 {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err = img.Status(t.Context(), 10*band+512, 1<<60, nil); err != nil || st.Offset != 512 || st.File == nil ||
		filepath.ToSlash(st.File.Filename()) != filepath.ToSlash(filepath.Join(dir, "bands/a")) {
		t.Errorf("%+v, %v", st, err)
	}
	if st, err = img.Status(t.Context(), 11*band, 1<<60, nil); err != nil || !st.Zero || st.Length != (0xfffff-11)*band {
		t.Errorf("%+v, %v", st, err)
	}
}

// TestGate: each file is asked for.
func TestGate(t *testing.T) {
	dir := inFolder(t, parts(bytes.Repeat([]byte{1}, 4096), 1024))
	if _, err := openAt(t, mem.New(), dir, driver.DenyAll); !errors.Is(err, driver.ErrGate) {
		t.Error(err)
	}
	img, err := openAt(t, mem.New(), dir, driver.GateFunc(func(_ context.Context, _, role, name string) error {
		if role == "bands" && filepath.Base(name) == "2" {
			return errors.New("not this one")
		}
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if _, err := img.ReadAt(t.Context(), make([]byte, 2048), 0); err != nil {
		t.Error(err)
	}
	if _, err := img.ReadAt(t.Context(), make([]byte, 10), 2048); !errors.Is(err, driver.ErrGate) {
		t.Error(err)
	}
}

// TestProbe: what is no bundle stays what it is.
func TestProbe(t *testing.T) {
	m := mem.New().(*mem.Driver)
	d := mem.NewDisk(0)
	if _, err := d.WriteAt(t.Context(), []byte(list("512", "512")), 0); err != nil {
		t.Fatal(err)
	}
	m.Add("disk", d)
	img, err := openAt(t, m, "mem:disk", driver.AllowAll)
	if err != nil || img.Format() != "raw" {
		t.Fatalf("%v, %v", img, err)
	}
	img.Close(context.Background())
	for name, files := range map[string]map[string][]byte{"empty": nil, "other": {listName: []byte("<plist/>")}} {
		if _, err := openAt(t, m, inFolder(t, files), driver.AllowAll); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := block.Open(t.Context(), block.NewRegistry(raw.New(), New(), file.New()), block.Source{Filename: inFolder(t, parts(make([]byte, 512), 512))},
		block.OpenOptions{Gate: driver.AllowAll, Write: true}); !errors.Is(err, driver.ErrReadOnly) {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	for name, x := range map[string]struct {
		list string
		want error
	}{
		"negative":     {list("-512", "512"), driver.ErrCorrupt},
		"huge":         {list("9223372036854775296", "512"), driver.ErrCorrupt},
		"no number":    {list("512", "x"), driver.ErrCorrupt},
		"band of 0":    {list("512", "0"), driver.ErrCorrupt},
		"odd band":     {list("512", "1000"), driver.ErrCorrupt},
		"odd size":     {list("1000", "512"), driver.ErrCorrupt},
		"not bands":    {list("1152921504606846976", "512"), driver.ErrUnsupported}, // in memory, where nothing is listed
		"version":      {strings.Replace(list("512", "512"), "<integer>1<", "<integer>2<", 1), driver.ErrUnsupported},
		"no bundle":    {strings.Replace(list("512", "512"), "sparsebundle</", "other</", 1), driver.ErrFormat},
		"long":         {list("512", "512") + strings.Repeat(" ", maxList), driver.ErrBudget},
		"entity":       {strings.Replace(list("512", "512"), "6.0", "&a;", 1), driver.ErrCorrupt},
		"nothing much": {"<plist><dict>", driver.ErrCorrupt},
	} {
		m := mem.New().(*mem.Driver)
		name2 := inMemory(t, m, map[string][]byte{listName: []byte(x.list)})
		img, err := block.Open(t.Context(), block.NewRegistry(New(), m), block.Source{Filename: name2, Format: "sparsebundle"}, block.OpenOptions{Gate: driver.AllowAll})
		if err == nil {
			img.Close(context.Background())
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dir := inFolder(t, parts(make([]byte, 512), 512))
	if err := os.Remove(filepath.Join(dir, "bands")); err != nil {
		t.Fatal(err)
	}
	if _, err := openAt(t, mem.New(), dir, driver.AllowAll); !errors.Is(err, driver.ErrCorrupt) {
		t.Errorf("no bands: %v", err)
	}
}

// TestEncrypted reads bands that count their blocks for themselves, one of them short.
func TestEncrypted(t *testing.T) {
	const band = 64 << 10
	disk := make([]byte, 5*band)
	testkit.Fill(testkit.Rand(5), disk)
	clear(disk[band+8192 : 3*band])
	x := applecrypttest.Image{Passphrase: "open sesame", Bits: 256, Block: 512, Iterations: 1000}
	files := parts(disk, band)
	for name, b := range files {
		if strings.HasPrefix(name, "bands/") {
			files[name] = x.Data(b, x.Block)
		}
	}
	files["token"] = x.Header2(0)
	dir := inFolder(t, files)
	open := func(o opts.Dict) (*block.Image, error) {
		return block.Open(t.Context(), block.NewRegistry(New(), file.New()), block.Source{Filename: dir, Options: o},
			block.OpenOptions{Gate: driver.AllowAll, Objects: driver.Secrets{"good": "open sesame", "bad": "open barley"}})
	}
	for _, o := range []opts.Dict{{}, {"key-secret": "bad"}} {
		if _, err := open(o); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%v: %v", o, err)
		}
	}
	img, err := open(opts.Dict{"key-secret": "good"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) || !img.Traits().Encrypted {
		t.Errorf("wrong, or %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "token"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(opts.Dict{"key-secret": "good"}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("not encrypted: %v", err)
	}
}

func FuzzList(f *testing.F) {
	f.Add(list("1000000000", "8388608"))
	f.Fuzz(func(t *testing.T, text string) {
		m := mem.New().(*mem.Driver)
		img, err := block.Open(t.Context(), block.NewRegistry(New(), m), block.Source{Filename: inMemory(t, m, map[string][]byte{listName: []byte(text)}), Format: "sparsebundle"},
			block.OpenOptions{Gate: driver.AllowAll})
		if err != nil {
			return
		}
		_, _ = img.ReadAt(t.Context(), make([]byte, 4096), 0)
		if err := img.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
}
