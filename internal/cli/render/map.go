package render

import (
	"bufio"
	"errors"
	"fmt"
	"io"

	"github.com/cowl-disk/cowl/qapi"
)

// ErrUnmappable is returned for data that has no place in a file.
var ErrUnmappable = errors.New("File contains external, encrypted or compressed clusters.")

// MapPrinter prints the entries of "map" one by one, so that a map of any
// length needs no memory. Call Entry for each, then End.
type MapPrinter struct {
	w    *bufio.Writer
	json bool
	n    int
}

// NewMapPrinter starts a map on w.
func NewMapPrinter(w io.Writer, json bool) *MapPrinter {
	p := &MapPrinter{w: bufio.NewWriter(w), json: json}
	if json {
		p.w.WriteByte('[')
	} else {
		fmt.Fprintf(p.w, "%-16s%-16s%-16s%s\n", "Offset", "Length", "Mapped to", "File")
	}
	return p
}

// Entry prints one entry. In the table only data is shown; it fails with
// ErrUnmappable for data that has no place in a file.
func (p *MapPrinter) Entry(e qapi.MapEntry) error {
	if !p.json {
		if !e.Data || e.Zero {
			return nil
		}
		if e.Offset == nil {
			return ErrUnmappable
		}
		_, err := fmt.Fprintf(p.w, "%-16s%-16s%-16s%s\n", hex(e.Start), hex(e.Length), hex(*e.Offset), Printable(Filename(e.Filename)))
		return err
	}
	if p.n > 0 {
		p.w.WriteString(",\n")
	}
	p.n++
	fmt.Fprintf(p.w, `{ "start": %d, "length": %d, "depth": %d, "present": %t, "zero": %t, "data": %t, "compressed": %t`,
		e.Start, e.Length, e.Depth, e.Present, e.Zero, e.Data, e.Compressed)
	if e.Offset != nil {
		fmt.Fprintf(p.w, `, "offset": %d`, *e.Offset)
	}
	return p.w.WriteByte('}')
}

// End ends the map after its last entry. Without it, what was printed is only
// flushed, not closed.
func (p *MapPrinter) End() error {
	if p.json {
		p.w.WriteString("]\n")
	}
	return p.w.Flush()
}

// Flush prints what is buffered, where the map ends early.
func (p *MapPrinter) Flush() error { return p.w.Flush() }

// hex writes n the way printf writes %#x: zero has no prefix.
func hex(n int64) string {
	if n == 0 {
		return "0"
	}
	return fmt.Sprintf("%#x", n)
}
