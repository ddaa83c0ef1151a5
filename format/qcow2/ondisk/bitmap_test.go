package ondisk

import (
	"errors"
	"reflect"
	"testing"
)

func TestBitmapDirectory(t *testing.T) {
	list := []Bitmap{
		{TableOffset: 1 << 16, TableSize: 1, Flags: BitmapAuto, Type: BitmapDirtyTracking, GranularityBits: 16, Name: "a", Extra: []byte{}},
		{TableOffset: 2 << 16, TableSize: 9, Flags: BitmapInUse | BitmapExtraCompatible, Type: BitmapDirtyTracking, GranularityBits: 9, Name: "a longer name", Extra: []byte("extra")},
	}
	var b []byte
	for i := range list {
		if n := len(b); len(list[i].Append(b))-n != list[i].Size() {
			t.Fatalf("entry %d is not of its size", i)
		}
		b = list[i].Append(b)
	}
	got, err := DecodeBitmapDirectory(b, 2)
	if err != nil || !reflect.DeepEqual(got, list) {
		t.Fatalf("%+v %v", got, err)
	}
	for name, c := range map[string]struct {
		b     []byte
		count int
		want  error
	}{
		"fewer": {b, 3, ErrLessBitmaps}, "more": {b, 1, ErrMoreBitmaps}, "cut": {b[:len(b)-8], 2, ErrBitmapDirectory},
		"rest": {append(b[:len(b):len(b)], 0, 0, 0, 0, 0, 0, 0, 0), 2, ErrBitmapDirectory}, "none": {nil, 0, nil},
	} {
		if _, err := DecodeBitmapDirectory(c.b, c.count); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, edit := range map[string]func(*Bitmap){
		"no table":      func(b *Bitmap) { b.TableOffset = 0 },
		"empty table":   func(b *Bitmap) { b.TableSize = 0 },
		"large table":   func(b *Bitmap) { b.TableSize = MaxBitmapBytes>>16 + 1 },
		"not aligned":   func(b *Bitmap) { b.TableOffset++ },
		"far away":      func(b *Bitmap) { b.TableOffset = 1 << 56 },
		"fine":          func(b *Bitmap) { b.GranularityBits = 8 },
		"coarse":        func(b *Bitmap) { b.GranularityBits = 32 },
		"unknown flags": func(b *Bitmap) { b.Flags |= 8 },
		"unknown type":  func(b *Bitmap) { b.Type = 2 },
		"long name":     func(b *Bitmap) { b.Name = string(make([]byte, MaxBitmapName+1)) },
	} {
		if x := list[0]; !x.Valid(16) {
			t.Fatal("the entry itself")
		} else if edit(&x); x.Valid(16) {
			t.Errorf("%s is taken for valid", name)
		}
	}
}

func TestBitmapTableSize(t *testing.T) {
	for _, c := range []struct {
		size int64
		g    uint8
		cs   uint32
		want int64
	}{
		{0, 16, 16, 0}, {1, 16, 16, 1}, {1 << 30, 16, 16, 1}, {1 << 35, 16, 16, 1}, {1<<35 + 1, 16, 16, 2}, {1 << 35, 16, 9, 128},
		{1 << 40, 9, 16, 4096}, {1<<40 + 1, 9, 16, 4097}, {1<<63 - 1, 31, 21, 256},
	} {
		if got := BitmapTableSize(c.size, c.g, c.cs); got != c.want {
			t.Errorf("%d bytes, granularity 2^%d, clusters 2^%d: %d entries, want %d", c.size, c.g, c.cs, got, c.want)
		}
	}
}

// FuzzBitmapDirectory decodes a directory: what decodes encodes to the same.
func FuzzBitmapDirectory(f *testing.F) {
	b := Bitmap{TableOffset: 1 << 16, TableSize: 1, Flags: BitmapAuto, Type: 1, GranularityBits: 16, Name: "name"}
	f.Add(b.Append(nil), 1)
	b.Extra = []byte("more")
	f.Add(b.Append(b.Append(nil)), 2)
	f.Fuzz(func(t *testing.T, b []byte, count int) {
		list, err := DecodeBitmapDirectory(b, count)
		if err != nil {
			return
		}
		var enc []byte
		for i := range list {
			enc = list[i].Append(enc)
			list[i].Valid(9)
		}
		again, err := DecodeBitmapDirectory(enc, count)
		if err != nil || len(enc) != len(b) || !reflect.DeepEqual(again, list) {
			t.Fatalf("%+v became %+v: %v", list, again, err)
		}
	})
}
