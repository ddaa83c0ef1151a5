package recognised

import (
	"context"

	"github.com/cowl-disk/cowl/block/driver"
)

// format is one that is recognised by its first bytes, or by its file name.
type format struct {
	desc  driver.Desc
	probe func(head []byte, name string) bool
}

// Drivers returns a driver for each format that has none of its own. They probe, and
// refuse to open.
func Drivers() []driver.Driver {
	var list []driver.Driver
	for _, f := range []struct {
		name, summary string
		probe         func(head []byte, name string) bool
	}{
		{"sparseimage", "Apple sparse disk images", at(0, "sprs")},
	} {
		list = append(list, &format{probe: f.probe, desc: driver.Desc{Name: f.name, Kind: driver.KindFormat, NotBuiltIn: true,
			Summary: f.summary, Children: []driver.ChildDesc{{Role: "file", Use: driver.UseMetadata}}}})
	}
	return list
}

// at says whether magic is at an offset.
func at(off int, magic string) func([]byte, string) bool {
	return func(head []byte, _ string) bool {
		return len(head) >= off+len(magic) && string(head[off:off+len(magic)]) == magic
	}
}

// Desc implements driver.Driver.
func (f *format) Desc() *driver.Desc { return &f.desc }

// Probe implements driver.Prober.
func (f *format) Probe(head []byte, _ int64, name string) int {
	if f.probe(head, name) {
		return 100
	}
	return 0
}

// Open implements driver.Driver: it refuses.
func (f *format) Open(context.Context, *driver.OpenRequest) (driver.Node, error) {
	return nil, driver.Errorf(driver.ErrUnsupported,
		"the image is in the format '%s', which this version cannot read; give -f raw to work on the bytes of the file as they are", f.desc.Name)
}
