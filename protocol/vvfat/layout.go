package vvfat

import (
	"encoding/binary"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/fat"
)

const (
	sector = fat.SectorSize

	// Of disks that are no floppies: the first partition begins after the first track.
	partitionStart = 63
	serial         = 0xfabe1afd
	diskSignature  = 0xbe1afdfa

	leastRoot = 512 // entries of the root directory of FAT12 and FAT16
	mostRoot  = 65536 - leastRoot
	maxDir    = 65536 * fat.EntrySize
)

// shape is what a disk may look like.
type shape struct {
	cylinders, heads, track int64 // the geometry, in sectors
	clusterSectors          int64
	bits                    int
	floppy                  bool
}

func (s *shape) sectors() int64 { return s.cylinders * s.heads * s.track }

// shapes returns the disks to try, in this order. For FAT32 the last one is made to fit.
func (o *openOptions) shapes() []shape {
	if o.Floppy {
		switch o.FATType {
		case 12:
			return []shape{{80, 2, 18, 1, 12, true}}
		case 16:
			return []shape{{80, 2, 36, 1, 16, true}}
		}
		return []shape{{80, 2, 36, 2, 12, true}}
	}
	switch o.FATType {
	case 12:
		return []shape{{64, 16, 63, 16, 12, false}, {128, 16, 63, 32, 12, false}, {256, 16, 63, 64, 12, false}}
	case 16: // of twice and four times the size there are as many clusters
		return []shape{{1024, 16, 63, 16, 16, false}, {2048, 16, 63, 32, 16, false}, {4096, 16, 63, 64, 16, false}}
	case 32:
		return []shape{{1024, 16, 63, 8, 32, false}}
	}
	return []shape{{1024, 16, 63, 16, 16, false}}
}

// object is clusters that follow each other, of a directory or a file.
type object struct {
	first, count uint32
	it           *item
	entries      []byte // of a directory
}

// plan is a disk as it was laid out when the folder was opened. It does not change.
type plan struct {
	fat.Volume
	shape
	size    int64    // of the disk in bytes
	start   int64    // of the volume on it
	root    []byte   // the root directory of FAT12 and FAT16
	objects []object // in the order of their clusters
	next    uint32   // the first free cluster
}

// layOut makes the plan of a tree, with clusters for all that is in it.
func (o *openOptions) layOut(top *item, label [labelSize]byte) (*plan, error) {
	m := &measure{}
	if err := m.folder(top); err != nil {
		return nil, err
	}
	shapes := o.shapes()
	grows := !o.Floppy && (o.FATType == 0 || o.FATType == 32)
	var capacity float64
	for i, s := range shapes {
		p := o.try(s, label, m)
		if p == nil {
			continue
		}
		// A disk that can be written has some room, if it can be had.
		spare := int64(0)
		if o.RW && (grows || i+1 < len(shapes)) {
			spare = p.Clusters / 8
		}
		if p.fits(m, spare) {
			p.assign(top)
			return p, nil
		}
		capacity = float64(p.Sectors) / 2000
	}
	if grows {
		if p := o.try(large(m), label, m); p != nil && p.fits(m, 0) {
			p.assign(top)
			return p, nil
		}
		return nil, driver.Errorf(driver.ErrTooLarge, "directory does not fit in FAT32 (capacity 2 TB)")
	}
	return nil, driver.Errorf(driver.ErrTooLarge, "directory does not fit in FAT%d (capacity %.2f MB)", shapes[0].bits, capacity)
}

// large is a FAT32 disk that the content takes two thirds of at most.
func large(m *measure) shape {
	s := shape{heads: 255, track: 63, bits: 32}
	for s.clusterSectors = 8; ; s.clusterSectors *= 2 {
		used := m.clusters(s.clusterSectors*sector, true) * s.clusterSectors
		room := max(used/2, 256<<20/sector)
		// The tables have 8 bytes a cluster together.
		all := (used + room) + (used+room)/s.clusterSectors/(sector/8) + 1000
		s.cylinders = (all + s.heads*s.track - 1) / (s.heads * s.track)
		if s.sectors() < s.clusterSectors<<21 || s.clusterSectors == 64 { // 2 million clusters
			return s
		}
	}
}

// try makes a plan of a shape; nil if there is no such file system.
func (o *openOptions) try(s shape, label [labelSize]byte, m *measure) *plan {
	p := &plan{shape: s, size: s.sectors() * sector, next: 2}
	if !s.floppy {
		p.start = partitionStart * sector
	}
	entries := int64(leastRoot)
	if need := int64(m.rootEntries); need > entries || o.RW && 2*need > entries {
		if o.RW {
			need *= 2
		}
		entries = min((need+leastRoot-1)/leastRoot*leastRoot, mostRoot)
	}
	p.Volume = fat.Volume{
		Bits: s.bits, Sectors: s.sectors() - p.start/sector, ClusterSectors: s.clusterSectors, RootEntries: entries,
		Hidden: uint32(p.start / sector), Heads: uint16(s.heads), TrackSectors: uint16(s.track), Floppy: s.floppy,
		Serial: serial, Label: label,
	}
	if p.Fit() != nil {
		return nil
	}
	return p
}

// fits says whether the content fits, and spare more clusters.
func (p *plan) fits(m *measure, spare int64) bool {
	return m.clusters(p.ClusterSize(), p.Bits == 32)+spare <= p.Clusters && (p.Bits == 32 || int64(m.rootEntries) <= p.RootEntries)
}

// measure is how much a tree has to hold.
type measure struct {
	rootEntries int
	rootSize    int64
	sizes       []int64 // of all other folders and of files, in bytes
}

// folder adds a folder and all below it, and gives its names short ones.
func (m *measure) folder(dir *item) error {
	names := make([]string, len(dir.children))
	for i, it := range dir.children {
		names[i] = it.name
	}
	entries := 2 // "." and "..", or a label and one to spare
	short, long := fat.ShortNames(names)
	for i, it := range dir.children {
		it.short, it.long = short[i], long[i]
		entries++
		if it.long {
			entries += fat.LongEntries(it.name)
		}
	}
	size := int64(entries) * fat.EntrySize
	if size > maxDir {
		return driver.Errorf(driver.ErrTooLarge, "folder '%s' has too many names for FAT", dir.path())
	}
	if dir.parent == nil {
		m.rootEntries, m.rootSize = entries, size
	} else {
		m.sizes = append(m.sizes, size)
	}
	for _, it := range dir.children {
		if !it.dir {
			m.sizes = append(m.sizes, it.size)
		} else if err := m.folder(it); err != nil {
			return err
		}
	}
	return nil
}

// clusters counts those that all takes.
func (m *measure) clusters(size int64, rootToo bool) (n int64) {
	for _, s := range m.sizes {
		n += (s + size - 1) / size
	}
	if rootToo {
		n += (m.rootSize + size - 1) / size
	}
	return n
}

// assign gives all their clusters, and makes the directories then.
func (p *plan) assign(top *item) {
	if p.Bits == 32 {
		p.allocate(top, max(int64(len(p.entries(top))), 1))
	}
	p.allocateBelow(top)
	for i := range p.objects {
		if o := &p.objects[i]; o.it.dir {
			o.entries = p.entries(o.it)
		}
	}
	if p.Bits != 32 {
		p.root = p.entries(top)
	}
}

func (p *plan) allocateBelow(dir *item) {
	for _, it := range dir.children {
		if !it.dir {
			p.allocate(it, it.size)
			continue
		}
		p.allocate(it, int64(len(p.entries(it))))
		p.allocateBelow(it)
	}
}

// allocate gives size bytes clusters; there are enough.
func (p *plan) allocate(it *item, size int64) {
	if size == 0 {
		return
	}
	count := uint32((size + p.ClusterSize() - 1) / p.ClusterSize())
	if it.first = p.next; !it.dir {
		it.runs = []fat.Run{{First: it.first, Count: count}}
	}
	p.objects = append(p.objects, object{first: it.first, count: count, it: it})
	p.next += count
}

// entries makes a directory.
func (p *plan) entries(dir *item) []byte {
	var b []byte
	add := func(name [11]byte, attr byte, it *item, first uint32) {
		e := make([]byte, fat.EntrySize)
		copy(e, name[:])
		e[11] = attr
		fat.PutCluster(e, first)
		fat.PutTimes(e, it.mtime.Local())
		if !it.dir {
			binary.LittleEndian.PutUint32(e[28:], uint32(it.size))
		}
		b = append(b, e...)
	}
	if dir.parent == nil {
		if p.Label != [labelSize]byte([]byte(noLabel)) {
			add(p.Label, fat.AttrLabel, &item{mtime: dir.mtime, dir: true}, 0)
		}
	} else {
		up := dir.parent.first
		if dir.parent.parent == nil {
			up = 0 // the root directory has no number here
		}
		add([11]byte([]byte(".          ")), fat.AttrDirectory, dir, dir.first)
		add([11]byte([]byte("..         ")), fat.AttrDirectory, dir.parent, up)
	}
	for _, it := range dir.children {
		if it.long {
			b = fat.AppendLong(b, it.name, it.short)
		}
		attr := byte(fat.AttrArchive)
		if it.dir {
			attr = fat.AttrDirectory
		} else if readOnly(it.mode) {
			attr |= fat.AttrReadOnly
		}
		add(it.short, attr, it, it.first)
	}
	return b
}
