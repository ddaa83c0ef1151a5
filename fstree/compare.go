package fstree

import (
	"bytes"
	"fmt"
	"io"
	"time"
)

// Comparison says what counts when trees are compared. The zero value compares all.
type Comparison struct {
	// TimeUnit is the precision of times; 0 for nanoseconds.
	TimeUnit time.Duration
	// Ignore takes away what does not count from copies of nodes.
	Ignore func(path string, n *Node)
	// Most is how many differences are told at most; 0 for 20.
	Most int
}

// Compare returns what differs between two trees, one sentence each, none if nothing
// does. It reads all contents.
func (c Comparison) Compare(a, b *Node) ([]string, error) {
	if c.Most == 0 {
		c.Most = 20
	}
	d := &differ{Comparison: c, first: map[*Node]string{}, second: map[*Node]string{}}
	err := d.nodes("", a, b)
	return d.found, err
}

type differ struct {
	Comparison
	found []string
	// first and second have the first path of each node, so that hard links are compared.
	first, second map[*Node]string
}

func (d *differ) tell(path, format string, args ...any) {
	if len(d.found) < d.Most {
		d.found = append(d.found, fmt.Sprintf("%.60q: ", "/"+path)+fmt.Sprintf(format, args...))
	}
}

func (d *differ) nodes(path string, a, b *Node) error {
	if len(d.found) >= d.Most {
		return nil
	}
	if a.Kind != b.Kind {
		d.tell(path, "%s, %s", a.Kind, b.Kind)
		return nil
	}
	if a.Kind != Dir {
		pa, seenA := d.first[a]
		pb, seenB := d.second[b]
		if seenA || seenB {
			if pa != pb || seenA != seenB {
				d.tell(path, "hard link to %.60q, %.60q", pa, pb)
			}
			return nil
		}
		d.first[a], d.second[b] = path, path
	}
	d.metadata(path, a, b)
	if a.Kind == File && a.Size == b.Size {
		same, err := sameContent(a, b)
		if err != nil {
			return fmt.Errorf("%q: %w", "/"+path, err)
		}
		if !same {
			d.tell(path, "the contents of %d bytes differ", a.Size)
		}
	}
	if path != "" {
		path += "/"
	}
	for _, e := range a.Children() {
		other := b.Child(e.Name)
		if other == nil {
			d.tell(path+e.Name, "only in the first")
			continue
		}
		if err := d.nodes(path+e.Name, e.Node, other); err != nil {
			return err
		}
	}
	for _, e := range b.Children() {
		if a.Child(e.Name) == nil {
			d.tell(path+e.Name, "only in the second")
		}
	}
	return nil
}

func (d *differ) metadata(path string, first, second *Node) {
	x, y := *first, *second
	a, b := &x, &y
	if d.Ignore != nil {
		d.Ignore(path, a)
		d.Ignore(path, b)
	}
	if a.Mode != b.Mode {
		d.tell(path, "mode %04o, %04o", a.Mode, b.Mode)
	}
	if a.UID != b.UID || a.GID != b.GID {
		d.tell(path, "owner %d:%d, %d:%d", a.UID, a.GID, b.UID, b.GID)
	}
	if ta, tb := floor(a.ModTime, d.TimeUnit), floor(b.ModTime, d.TimeUnit); !ta.Equal(tb) {
		d.tell(path, "time %s, %s", ta.UTC(), tb.UTC())
	}
	if a.Major != b.Major || a.Minor != b.Minor {
		d.tell(path, "device %d:%d, %d:%d", a.Major, a.Minor, b.Major, b.Minor)
	}
	if a.Target != b.Target {
		d.tell(path, "target %q, %q", a.Target, b.Target)
	}
	if a.Size != b.Size {
		d.tell(path, "%d bytes, %d bytes", a.Size, b.Size)
	}
	for _, v := range a.Xattrs {
		if w, ok := b.Xattr(v.Name); !ok {
			d.tell(path, "attribute %s only in the first", v.Name)
		} else if !bytes.Equal(v.Value, w) {
			d.tell(path, "attribute %s is %.40q, %.40q", v.Name, v.Value, w)
		}
	}
	for _, w := range b.Xattrs {
		if _, ok := a.Xattr(w.Name); !ok {
			d.tell(path, "attribute %s only in the second", w.Name)
		}
	}
}

// floor takes a time down to a unit, also before 1970.
func floor(t time.Time, unit time.Duration) time.Time {
	if unit <= 1 {
		return t
	}
	rest := t.UnixNano() % int64(unit)
	if rest < 0 {
		rest += int64(unit)
	}
	return t.Add(-time.Duration(rest))
}

// sameContent compares files of one size. Ranges that are holes in both are not read.
func sameContent(a, b *Node) (bool, error) {
	x, err := a.OpenContent()
	if err != nil {
		return false, err
	}
	defer x.Close()
	y, err := b.OpenContent()
	if err != nil {
		return false, err
	}
	defer y.Close()
	p, q := make([]byte, 256<<10), make([]byte, 256<<10)
	for off := int64(0); off < a.Size; {
		s, _, err := DataAfter(x, off, a.Size)
		if err != nil {
			return false, err
		}
		t, _, err := DataAfter(y, off, a.Size)
		if err != nil {
			return false, err
		}
		if off = min(s, t); off >= a.Size {
			break
		}
		n := min(int64(len(p)), a.Size-off)
		if err := readFull(x, p[:n], off); err != nil {
			return false, err
		}
		if err := readFull(y, q[:n], off); err != nil {
			return false, err
		}
		if !bytes.Equal(p[:n], q[:n]) {
			return false, nil
		}
		off += n
	}
	return true, nil
}

func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read at %d: %w", off, err)
}
