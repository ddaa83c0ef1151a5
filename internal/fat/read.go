package fat

import (
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrInconsistent is what errors about a file system that nothing can be concluded from are:
// one that somebody is in the middle of changing, or a damaged one.
var ErrInconsistent = errors.New("the file system is inconsistent")

// Limits bound what Read takes.
type Limits struct {
	Entries int // files and directories together
	Depth   int // directories within each other
	Runs    int // pieces that all files together are in
	Text    int // bytes of all names together
}

// File is a file or directory as the file system has it.
type File struct {
	// Name is the long name, or the short one in lower case where there is no long one: it
	// passes CheckName and differs from its neighbours' by Fold.
	Name     string
	Long     bool     // there is a long name
	Short    [11]byte // the short name, as it is stored
	ReadOnly bool
	Dir      bool
	Size     int64 // of a file, in bytes
	Modified time.Time
	First    uint32 // the first cluster, 0 for none
	Runs     []Run  // of a file: where its bytes are, Size rounded up to clusters at least
	Children []*File
}

// Run is clusters that follow each other.
type Run struct{ First, Count uint32 }

// Tree is a whole file system.
type Tree struct {
	Root *File
	// Lost is how many clusters are in use without being those of a file or directory: a
	// system writes a file before its name.
	Lost int64
}

// reader reads a file system.
type reader struct {
	v       *Volume
	r       io.ReaderAt
	limits  Limits
	entries int
	runs    int
	text    int
	used    []uint64 // a bit for each cluster that has been seen
	window  []byte   // of the first table
	at      int64    // its offset in the table, -1 for none
}

// windowSize is how much of the table is in memory. Entries of FAT12 do not span windows.
const windowSize = 96 << 10

// Read reads the file system of a volume with all names, from the first of its tables. It
// fails with ErrInconsistent for chains of clusters that meet, end too early, or lead out of
// the volume; for names that are not allowed or twice there; for a boot sector of another
// volume; and beyond the limits. It takes memory for a bit of each cluster and for what
// Limits allow, whatever the bytes are.
func Read(r io.ReaderAt, v *Volume, limits Limits) (*Tree, error) {
	d := &reader{v: v, r: r, limits: limits, used: make([]uint64, (v.Clusters+2+63)/64), at: -1}
	boot := make([]byte, SectorSize)
	if _, err := r.ReadAt(boot, 0); err != nil {
		return nil, fmt.Errorf("read the boot sector: %w", err)
	}
	if !v.sameShape(boot) {
		return nil, d.wrong("the boot sector is that of another volume")
	}
	root := &File{Dir: true}
	var content []byte
	var err error
	if v.Bits == 32 {
		content, err = d.directory(rootCluster)
	} else {
		content = make([]byte, v.RootSize())
		_, err = r.ReadAt(content, v.RootStart())
	}
	if err == nil {
		err = d.children(root, content, "/", 0)
	}
	if err != nil {
		return nil, err
	}
	lost, err := d.lost()
	return &Tree{Root: root, Lost: lost}, err
}

func (d *reader) wrong(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInconsistent, fmt.Sprintf(format, args...))
}

// next returns the entry of a cluster in the table.
func (d *reader) next(cluster int64) (uint32, error) {
	at := cluster * int64(d.v.Bits) / 8 / windowSize * windowSize
	if at != d.at {
		d.at = -1
		n := min(windowSize, d.v.TableSectors*SectorSize-at)
		if d.window == nil {
			d.window = make([]byte, windowSize+1) // the last entry of FAT12 is read as two bytes
		}
		if _, err := d.r.ReadAt(d.window[:n], d.v.TableStart()+at); err != nil {
			return 0, fmt.Errorf("read the table: %w", err)
		}
		d.at = at
	}
	return d.v.entry(d.window, cluster-at*8/int64(d.v.Bits)), nil
}

// chain follows a chain of clusters, most of which may be as many as the volume has, and takes
// each of them for its own.
func (d *reader) chain(first uint32) (runs []Run, count int64, err error) {
	for c := int64(first); ; {
		if c < 2 || c >= d.v.Clusters+2 {
			return nil, 0, d.wrong("a chain leads to cluster %d, which is not in use", c)
		}
		if bit := uint64(1) << (c & 63); d.used[c>>6]&bit != 0 {
			return nil, 0, d.wrong("two chains meet in cluster %d", c)
		} else {
			d.used[c>>6] |= bit
		}
		if n := len(runs); n > 0 && int64(runs[n-1].First)+int64(runs[n-1].Count) == c {
			runs[n-1].Count++
		} else {
			if d.runs++; d.runs > d.limits.Runs {
				return nil, 0, d.wrong("there are more than %d pieces of files", d.limits.Runs)
			}
			runs = append(runs, Run{uint32(c), 1})
		}
		count++
		next, err := d.next(c)
		if err != nil {
			return nil, 0, err
		}
		if next >= d.v.End()-7 {
			return runs, count, nil
		}
		c = int64(next)
	}
}

// maxDir is the size of the largest directory in bytes.
const maxDir = 65536 * EntrySize

// directory reads the entries of a directory.
func (d *reader) directory(first uint32) ([]byte, error) {
	runs, count, err := d.chain(first)
	if err != nil {
		return nil, err
	}
	size := count * d.v.ClusterSize()
	if size > maxDir+d.v.ClusterSize() {
		return nil, d.wrong("a directory of %d bytes is too large", size)
	}
	content := make([]byte, size)
	at := int64(0)
	for _, run := range runs {
		n := int64(run.Count) * d.v.ClusterSize()
		if _, err := d.r.ReadAt(content[at:at+n], d.v.Offset(run.First)); err != nil {
			return nil, fmt.Errorf("read a directory: %w", err)
		}
		at += n
	}
	return content, nil
}

// children adds what a directory's entries say, and reads the directories among them.
func (d *reader) children(dir *File, content []byte, path string, depth int) error {
	if depth > d.limits.Depth {
		return d.wrong("%q: there are more than %d directories within each other", path, d.limits.Depth)
	}
	names := map[string]bool{}
	err := scan(content, func(f *File) error {
		if d.entries++; d.entries > d.limits.Entries {
			return d.wrong("there are more than %d files and directories", d.limits.Entries)
		}
		if d.text += len(f.Name); d.text > d.limits.Text {
			return d.wrong("the names have more than %d bytes together", d.limits.Text)
		}
		if err := CheckName(f.Name); err != nil {
			return d.wrong("%q: %v", path+f.Name, err)
		}
		if key := Fold(f.Name); names[key] {
			return d.wrong("%q is there twice", path+f.Name)
		} else {
			names[key] = true
		}
		dir.Children = append(dir.Children, f)
		return nil
	})
	if err != nil {
		return err
	}
	for _, f := range dir.Children {
		if f.Dir {
			sub, err := d.directory(f.First)
			if err == nil {
				err = d.children(f, sub, path+f.Name+"/", depth+1)
			}
			if err != nil {
				return err
			}
			continue
		}
		if f.First == 0 {
			if f.Size > 0 {
				return d.wrong("%q has %d bytes and no cluster", path+f.Name, f.Size)
			}
			continue
		}
		runs, count, err := d.chain(f.First)
		if err != nil {
			return fmt.Errorf("%q: %w", path+f.Name, err)
		}
		if size := count * d.v.ClusterSize(); f.Size > size {
			return d.wrong("%q has %d bytes, and clusters for %d", path+f.Name, f.Size, size)
		}
		f.Runs = runs
	}
	return nil
}

// lost counts clusters that are in use and nobody's. Bad ones are not in use.
func (d *reader) lost() (lost int64, err error) {
	bad := d.v.End() - 8
	for c := int64(2); c < d.v.Clusters+2; c++ {
		next, err := d.next(c)
		if err != nil {
			return 0, err
		}
		if next != 0 && next != bad && d.used[c>>6]&(1<<(c&63)) == 0 {
			lost++
		}
	}
	return lost, nil
}
