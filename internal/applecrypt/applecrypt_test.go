package applecrypt

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/applecrypt/applecrypttest"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/protocol/mem"
)

func disk(t testing.TB, b []byte) driver.Storage {
	d := mem.NewDisk(0)
	if _, err := d.WriteAt(t.Context(), b, 0); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestRead reads images of both versions at any place, and refuses another passphrase.
func TestRead(t *testing.T) {
	plain := make([]byte, 3<<20+512)
	testkit.Fill(testkit.Rand(1), plain)
	for _, x := range []applecrypttest.Image{{Bits: 128, Block: 4096}, {Bits: 256, Block: 512}, {Bits: 128}, {Bits: 256}} {
		x.Passphrase, x.Iterations = "hedge and gate", 1000
		var image []byte
		want := plain
		if x.Block == 0 {
			image = x.Version1(plain)
			want = append(bytes.Clone(plain), make([]byte, 4096-512)...)
		} else {
			image = x.Version2(plain)
		}
		file := disk(t, image)
		if _, err := Unlock(t.Context(), file, []byte("hedge and gates")); !errors.Is(err, driver.ErrInvalid) {
			t.Errorf("%+v: %v", x, err)
		}
		k, err := Unlock(t.Context(), file, []byte(x.Passphrase))
		if err != nil {
			t.Fatalf("%+v: %v", x, err)
		}
		s, err := k.Whole(file)
		if err != nil {
			t.Fatal(err)
		}
		if s.Size() != int64(len(want)) {
			t.Errorf("%+v: %d bytes", x, s.Size())
		}
		r := testkit.Rand(2)
		for range 50 {
			off := r.IntN(len(plain))
			p := make([]byte, 1+r.IntN(len(plain)-off))
			if n, err := s.ReadAt(t.Context(), p, int64(off)); n != len(p) || err != nil || !bytes.Equal(p, plain[off:off+n]) {
				t.Fatalf("%+v: %d of %d bytes at %d, %v", x, n, len(p), off, err)
			}
		}
		if n, err := s.ReadAt(t.Context(), make([]byte, 10), s.Size()-5); n != 5 || err != io.EOF {
			t.Errorf("at the end: %d, %v", n, err)
		}
	}
}

func TestRefused(t *testing.T) {
	x := applecrypttest.Image{Passphrase: "a", Bits: 128, Block: 4096, Iterations: 1000}
	set := func(off int, v uint32) func(b []byte) []byte {
		return func(b []byte) []byte { be.PutUint32(b[off:], v); return b }
	}
	for name, c := range map[string]struct {
		damage func(b []byte) []byte
		want   error
	}{
		"version":         {set(8, 3), driver.ErrUnsupported},
		"mode":            {set(16, 6), driver.ErrUnsupported},
		"algorithm":       {set(20, 17), driver.ErrUnsupported},
		"bits":            {set(24, 192), driver.ErrUnsupported},
		"block":           {set(52, 1000), driver.ErrCorrupt},
		"huge block":      {set(52, 1<<30), driver.ErrCorrupt},
		"size":            {set(56, 1<<31), driver.ErrCorrupt},
		"offset":          {set(64, 1<<31), driver.ErrCorrupt},
		"beyond the file": {set(60, 1<<20), driver.ErrTruncated},
		"many keys":       {set(72, 1<<31), driver.ErrBudget},
		"certificate":     {set(72, 1), driver.ErrUnsupported},
		"key elsewhere":   {set(100, 1<<30), driver.ErrCorrupt},
		"short key":       {set(112, 100), driver.ErrCorrupt},
		"iterations":      {set(1024+8, 1<<32-1), driver.ErrBudget},
		"no iterations":   {set(1024+8, 0), driver.ErrCorrupt},
		"salt":            {set(1024+12, 33), driver.ErrCorrupt},
		"blob":            {set(1024+100, 1<<31), driver.ErrCorrupt},
		"blob of 47":      {set(1024+100, 47), driver.ErrCorrupt},
		"wrapped key":     {set(1024+104+40, 0), driver.ErrInvalid},
		"cut":             {func(b []byte) []byte { return b[:70] }, driver.ErrCorrupt},
		"not encrypted":   {func(b []byte) []byte { return b[1:] }, driver.ErrFormat},
	} {
		file := disk(t, c.damage(x.Version2(make([]byte, 8192))))
		k, err := Unlock(t.Context(), file, []byte("a"))
		if err == nil {
			_, err = k.Whole(file)
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, c := range map[string]struct {
		off  int
		want error
	}{"salt": {52, driver.ErrCorrupt}, "key": {136, driver.ErrCorrupt}, "mac": {436, driver.ErrCorrupt}, "iterations": {48, driver.ErrBudget}} {
		b := x.Version1(make([]byte, 8192))
		be.PutUint32(b[len(b)-header1+c.off:], 1<<31)
		if _, err := Unlock(t.Context(), disk(t, b), []byte("a")); !errors.Is(err, c.want) {
			t.Errorf("version 1, %s: %v", name, err)
		}
	}
}

func FuzzHeader(f *testing.F) {
	x := applecrypttest.Image{Passphrase: "a", Bits: 128, Block: 512, Iterations: 1}
	f.Add(x.Version2([]byte("x")))
	f.Add(x.Version1([]byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		k, err := Unlock(t.Context(), disk(t, b), []byte("a"))
		if err != nil {
			return
		}
		if s, err := k.Whole(disk(t, b)); err == nil {
			_, _ = s.ReadAt(t.Context(), make([]byte, 1000), 3)
		}
	})
}
