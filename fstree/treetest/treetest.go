// Package treetest makes trees for tests of file system writers, and puts trees into
// folders, so that other programs can pack them.
package treetest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/fstree"
)

// Shape says what a random tree may hold.
type Shape struct {
	Entries int   // about so many
	MaxSize int64 // of a file; larger ones are rare
	Hole    int64 // the unit of holes, 0 for none
	// Namespaces are the prefixes of extended attributes, such as "user.".
	Namespaces []string
	Devices    bool // devices, fifos and sockets
	Times      func(*rand.Rand) time.Time
	Names      func(*rand.Rand) string
	MaxUID     uint32
}

// Any is a shape of everything that Linux's file systems hold.
func Any() Shape {
	return Shape{Entries: 60, MaxSize: 150 << 10, Hole: 32 << 10, Namespaces: []string{"user.", "trusted.", "security."}, Devices: true,
		Times: Times, Names: Names, MaxUID: 1<<32 - 2}
}

// Times returns times between 1970 and 2106, with nanoseconds.
func Times(r *rand.Rand) time.Time {
	switch r.IntN(8) {
	case 0:
		return time.Unix(0, 0)
	case 1:
		return time.Unix(1<<32-1, 999999999)
	}
	return time.Unix(r.Int64N(1<<32), r.Int64N(1e9))
}

// Names returns names as they are common, and some that hold any byte.
func Names(r *rand.Rand) string {
	switch r.IntN(12) {
	case 0:
		b := make([]byte, 1+r.IntN(255))
		for i := range b {
			if b[i] = byte(1 + r.IntN(255)); b[i] == '/' {
				b[i] = '\n'
			}
		}
		if s := string(b); strings.Trim(s, ".") != "" {
			return s
		}
		return "dots"
	case 1:
		return strings.Repeat("x", 255)
	case 2:
		return "überfluß " + fmt.Sprint(r.IntN(1000))
	case 3:
		return fmt.Sprintf(".hidden%d", r.IntN(100))
	}
	return fmt.Sprintf("%c%d.%s", 'a'+rune(r.IntN(26)), r.IntN(10000), []string{"txt", "so", "c", ""}[r.IntN(4)])
}

// Random returns a tree that depends on nothing but the seed and the shape.
func Random(seed uint64, s Shape) *fstree.Node {
	r := rand.New(rand.NewPCG(seed, 0x636f776c))
	g := &generator{Rand: r, Shape: s}
	root := fstree.NewDir(0o755)
	g.meta(root)
	dirs := []*fstree.Node{root}
	var others []*fstree.Node
	for range s.Entries/2 + r.IntN(s.Entries+1) {
		dir := dirs[r.IntN(len(dirs))]
		n := g.node(others)
		if dir.Set(s.Names(r), n) != nil {
			continue
		}
		if n.Kind == fstree.Dir {
			dirs = append(dirs, n)
		} else {
			others = append(others, n)
		}
	}
	return root
}

type generator struct {
	*rand.Rand
	Shape
	contents []fstree.Bytes
}

func (g *generator) node(others []*fstree.Node) *fstree.Node {
	n := &fstree.Node{}
	switch k := g.IntN(20); {
	case k < 4:
		n.Kind = fstree.Dir
	case k < 13:
		g.file(n)
	case k < 15:
		n.Kind, n.Target = fstree.Symlink, strings.Repeat("../t", g.IntN(200))+"x"
	case k < 17 && len(others) > 0:
		return others[g.IntN(len(others))] // a hard link
	case k < 19 && g.Devices:
		n.Kind = []fstree.Kind{fstree.CharDevice, fstree.BlockDevice, fstree.FIFO, fstree.Socket}[g.IntN(4)]
		if n.Kind == fstree.CharDevice || n.Kind == fstree.BlockDevice {
			n.Major, n.Minor = g.Uint32N(1<<12), g.Uint32N(1<<20)
			if g.IntN(2) == 0 {
				n.Major, n.Minor = g.Uint32N(256), g.Uint32N(256)
			}
		}
	default:
		n.Kind = fstree.File
	}
	g.meta(n)
	return n
}

func (g *generator) meta(n *fstree.Node) {
	n.Mode = uint16(g.IntN(0o10000))
	if n.Kind == fstree.Symlink {
		n.Mode = 0o777
	}
	if g.IntN(3) > 0 {
		n.UID, n.GID = g.Uint32N(1200), g.Uint32N(5)
	} else {
		n.UID, n.GID = g.Uint32N(g.MaxUID), g.Uint32N(g.MaxUID)
	}
	n.ModTime = g.Times(g.Rand)
	if len(g.Namespaces) == 0 || g.IntN(4) > 0 {
		return
	}
	var list []fstree.Xattr
	for range g.IntN(5) {
		space := g.Namespaces[g.IntN(len(g.Namespaces))]
		if space == "user." && n.Kind != fstree.File && n.Kind != fstree.Dir {
			continue // Linux has none there
		}
		value := make([]byte, []int{0, 1, 20, 200, 600}[g.IntN(5)]) // all of a file fit in a block of ext4
		for i := range value {
			value[i] = byte(g.Uint32() % 251)
		}
		list = append(list, fstree.Xattr{Name: space + strings.Repeat("n", 1+g.IntN(40)), Value: value})
	}
	if n.Kind == fstree.File && g.IntN(3) == 0 { // a file capability
		value := binary.LittleEndian.AppendUint32(nil, 0x02000001)
		value = binary.LittleEndian.AppendUint32(value, 1<<g.IntN(20))
		list = append(list, fstree.Xattr{Name: "security.capability", Value: append(value, make([]byte, 12)...)})
	}
	n.SetXattrs(list)
}

// file gives a file its content: compressible, random, zeros, one that another file has.
func (g *generator) file(n *fstree.Node) {
	n.Kind = fstree.File
	limit := []int64{10, 5000, g.MaxSize / 10, g.MaxSize}[g.IntN(4)]
	b := make([]byte, g.Int64N(limit+1))
	switch g.IntN(6) {
	case 0:
		for i := range b {
			b[i] = byte(g.Uint32())
		}
	case 1: // zeros
	case 2:
		if len(g.contents) > 0 {
			b = g.contents[g.IntN(len(g.contents))]
		}
	case 3:
		if g.Hole > 0 {
			g.sparse(n)
			return
		}
		fallthrough
	default:
		word := make([]byte, 30)
		for i := range word {
			word[i] = byte('a' + g.IntN(26))
		}
		for i := 0; i < len(b); i += len(word) {
			copy(b[i:], word)
			b[i] = byte(g.Uint32())
		}
	}
	g.contents = append(g.contents, b)
	n.Size, n.Content = int64(len(b)), fstree.Bytes(b)
}

func (g *generator) sparse(n *fstree.Node) {
	var pieces []fstree.Piece
	var data []byte
	off := int64(0)
	for range g.IntN(4) {
		off += g.Int64N(4) * g.Hole
		piece := bytes.Repeat([]byte{byte(1 + g.IntN(255))}, int(1+g.Int64N(g.Hole)))
		pieces = append(pieces, fstree.Piece{Extent: fstree.Extent{Start: off, Length: int64(len(piece))}, At: int64(len(data))})
		data = append(data, piece...)
		off += (int64(len(piece)) + g.Hole - 1) / g.Hole * g.Hole
	}
	n.Size = off + g.Int64N(2*g.Hole)
	n.Content = fstree.Sparse(bytes.NewReader(data), n.Size, pieces)
}

// Equal fails the test where two trees differ.
func Equal(t testing.TB, what string, want, got *fstree.Node, c fstree.Comparison) {
	t.Helper()
	diff, err := c.Compare(want, got)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	}
	if len(diff) > 0 {
		t.Errorf("%s:\n%s", what, strings.Join(diff, "\n"))
	}
}
