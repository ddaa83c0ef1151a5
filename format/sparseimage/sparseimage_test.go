package sparseimage

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/block/drivertest"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/applecrypt/applecrypttest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// build makes an image of a disk whose bands of zeroes are absent and whose others are in
// an order by chance. With gap, the first place of each table is free.
func build(disk []byte, sectors int, gap bool) []byte {
	size := sectors * sectorSize
	r := testkit.Rand(7)
	var present []int
	for i := range (len(disk) + size - 1) / size {
		if p := disk[i*size : min(len(disk), (i+1)*size)]; bytes.Count(p, []byte{0}) != len(p) {
			present = append(present, i)
		}
	}
	r.Shuffle(len(present), func(i, j int) { present[i], present[j] = present[j], present[i] })
	out := make([]byte, nodeSize)
	copy(out, magic)
	be.PutUint32(out[4:], 3)
	be.PutUint32(out[8:], uint32(sectors))
	be.PutUint32(out[12:], 1)
	be.PutUint32(out[16:], uint32(len(disk)/sectorSize))
	be.PutUint64(out[28:], uint64(len(disk)/sectorSize))
	link, table, places := 20, 64, 0x3f0
	for place := 0; len(present) > 0; place++ {
		if place == places {
			be.PutUint64(out[link:], uint64(len(out)))
			link, table, places, place = len(out)+12, len(out)+56, 0x3f2, 0
			out = append(out, make([]byte, nodeSize)...)
			copy(out[link-12:], magic)
		}
		p := make([]byte, size)
		if !gap || place > 0 {
			be.PutUint32(out[table+4*place:], uint32(present[0]+1))
			copy(p, disk[present[0]*size:])
			present = present[1:]
		}
		out = append(out, p...)
	}
	return out
}

func open1(t testing.TB, b []byte) (*block.Image, error) {
	memory := mem.New().(*mem.Driver)
	d := mem.NewDisk(0)
	if _, err := d.WriteAt(context.Background(), b, 0); err != nil {
		t.Fatal(err)
	}
	memory.Add("a", d)
	return block.Open(context.Background(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a", Format: "sparseimage"},
		block.OpenOptions{Gate: driver.DenyAll})
}

func TestConformance(t *testing.T) {
	for name, c := range map[string]struct {
		size, sectors int
		gap           bool
	}{
		"one node":      {3<<20 + 512, 64, false},
		"several nodes": {4 << 20, 2, false},
		"free places":   {2 << 20, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			disk := make([]byte, c.size)
			testkit.FillDisk(testkit.Rand(3), disk)
			clear(disk[100<<10 : 300<<10])
			drivertest.RunFixture(t, drivertest.Fixture{Driver: New(), Image: build(disk, c.sectors, c.gap), Content: disk})
		})
	}
}

// TestMap: neighbours are one extent, with the offset in the file.
func TestMap(t *testing.T) {
	b := make([]byte, nodeSize+4*1024)
	copy(b, magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[8:], 2)
	be.PutUint32(b[16:], 1<<31) // 1 TiB, as older images have it
	for i, number := range []uint32{9, 4, 5, 6} {
		be.PutUint32(b[64+4*i:], number)
	}
	img, err := open1(t, b)
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	if img.Size() != 1<<40 {
		t.Fatalf("size %d", img.Size())
	}
	for _, x := range []struct {
		off, length, host int64
		zero              bool
	}{{0, 3072, 0, true}, {3072 + 10, 3072 - 10, nodeSize + 1024 + 10, false}, {6144, 2048, 0, true}, {8192, 1024, nodeSize, false}, {9216, 1<<40 - 9216, 0, true}} {
		st, err := img.Status(t.Context(), x.off, 1<<40, nil)
		if err != nil || st.Length != x.length || st.Zero != x.zero || !x.zero && (!st.HasOffset || st.Offset != x.host) {
			t.Errorf("at %d: %+v, %v", x.off, st, err)
		}
	}
}

func TestRefused(t *testing.T) {
	disk := make([]byte, 3<<20)
	testkit.Fill(testkit.Rand(1), disk)
	whole := build(disk, 2, false)
	next := nodeSize + 0x3f0*1024
	for name, x := range map[string]struct {
		damage func(b []byte) []byte
		want   error
	}{
		"empty":          {func(b []byte) []byte { return nil }, driver.ErrFormat},
		"no magic":       {func(b []byte) []byte { b[0] = 0; return b }, driver.ErrFormat},
		"version":        {func(b []byte) []byte { b[7] = 4; return b }, driver.ErrUnsupported},
		"no band":        {func(b []byte) []byte { clear(b[8:12]); return b }, driver.ErrCorrupt},
		"huge band":      {func(b []byte) []byte { b[8] = 255; return b }, driver.ErrCorrupt},
		"huge disk":      {func(b []byte) []byte { b[28] = 255; return b }, driver.ErrCorrupt},
		"beyond disk":    {func(b []byte) []byte { be.PutUint32(b[64:], 3073); return b }, driver.ErrCorrupt},
		"twice":          {func(b []byte) []byte { copy(b[64:68], b[68:72]); return b }, driver.ErrCorrupt},
		"beyond file":    {func(b []byte) []byte { return b[:next/2] }, driver.ErrCorrupt},
		"circle":         {func(b []byte) []byte { be.PutUint64(b[next+12:], uint64(next)); return b }, driver.ErrCorrupt},
		"node elsewhere": {func(b []byte) []byte { be.PutUint64(b[20:], 1<<63); return b }, driver.ErrCorrupt},
		"node is none":   {func(b []byte) []byte { b[next] = 0; return b }, driver.ErrCorrupt},
	} {
		img, err := open1(t, x.damage(bytes.Clone(whole)))
		if err == nil {
			img.Close(context.Background())
		}
		if !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Of a last band that is cut off, the end is zeroes, as in other formats.
	img, err := open1(t, whole[:len(whole)-512])
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(got, make([]byte, 512)); n != 1 {
		t.Errorf("%d sectors of zeroes", n)
	}
}

// TestEncrypted reads an encrypted image, which its name tells.
func TestEncrypted(t *testing.T) {
	disk := make([]byte, 1<<20)
	testkit.Fill(testkit.Rand(5), disk)
	x := applecrypttest.Image{Passphrase: "open sesame", Bits: 128, Block: 4096, Iterations: 1000}
	memory := mem.New().(*mem.Driver)
	d := mem.NewDisk(0)
	if _, err := d.WriteAt(t.Context(), x.Version2(build(disk, 8, false)), 0); err != nil {
		t.Fatal(err)
	}
	memory.Add("a.sparseimage", d)
	open := func(id string) (*block.Image, error) {
		return block.Open(t.Context(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a.sparseimage", Options: opts.Dict{"key-secret": id}},
			block.OpenOptions{Gate: driver.DenyAll, Objects: driver.Secrets{"good": "open sesame", "bad": "open barley"}})
	}
	if _, err := open("bad"); !errors.Is(err, driver.ErrInvalid) {
		t.Error(err)
	}
	img, err := open("good")
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close(context.Background())
	got := make([]byte, len(disk))
	if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, disk) || !img.Traits().Encrypted {
		t.Errorf("wrong, or %v", err)
	}
}

func FuzzImage(f *testing.F) {
	f.Add(build(bytes.Repeat([]byte{1}, 8192), 2, true))
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := open1(t, b)
		if err != nil {
			return
		}
		defer img.Close(context.Background())
		_, _ = img.ReadAt(context.Background(), make([]byte, 1<<16), 0)
		if _, err := img.Status(context.Background(), 0, img.Size(), nil); img.Size() > 0 && err != nil {
			t.Error(err)
		}
	})
}
