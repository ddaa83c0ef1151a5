package dmg

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/raw"
	"github.com/cowl-disk/cowl/internal/applecrypt/applecrypttest"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/protocol/mem"
)

// TestEncrypted reads images with a trailer, and whole disks, of both versions.
func TestEncrypted(t *testing.T) {
	disk := content(1, 1<<20)
	b := &builder{tb: t}
	b.table(disk, 128<<10, typeZlib)
	whole := bytes.Clone(disk)
	copy(whole[510:], "\x55\xaa") // no partition table: an encrypted disk may be anything
	x := applecrypttest.Image{Passphrase: "open sesame", Bits: 256, Block: 512, Iterations: 1000}
	for name, c := range map[string]struct {
		image []byte
		want  []byte
	}{
		"2, trailer": {x.Version2(b.image()), disk},
		"1, trailer": {x.Version1(b.image()), disk},
		"2, plain":   {x.Version2(whole), whole},
	} {
		open := func(o opts.Dict) (*block.Image, error) {
			memory := mem.New().(*mem.Driver)
			d := mem.NewDisk(0)
			if _, err := d.WriteAt(t.Context(), c.image, 0); err != nil {
				t.Fatal(err)
			}
			memory.Add("a.dmg", d)
			return block.Open(t.Context(), block.NewRegistry(New(), raw.New(), memory), block.Source{Filename: "mem:a.dmg", Options: o},
				block.OpenOptions{Gate: driver.DenyAll, Objects: driver.Secrets{"good": "open sesame", "bad": "open barley"}})
		}
		for _, o := range []opts.Dict{{}, {"key-secret": "bad"}, {"key-secret": "none"}} {
			if _, err := open(o); !errors.Is(err, driver.ErrInvalid) {
				t.Errorf("%s, %v: %v", name, o, err)
			}
		}
		img, err := open(opts.Dict{"key-secret": "good"})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := make([]byte, len(c.want))
		if _, err := img.ReadAt(t.Context(), got, 0); err != nil || !bytes.Equal(got, c.want) || !img.Traits().Encrypted {
			t.Errorf("%s: wrong, or %v", name, err)
		}
		img.Close(context.Background())
	}
}
