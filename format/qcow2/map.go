package qcow2

import (
	"context"
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

// clusterKind is what an L2 entry says of its cluster (section "L2 table
// entry"). With extended entries, kindNormal covers all clusters that have room
// and kindUnallocated all that have none; the bitmap tells the rest.
type clusterKind uint8

const (
	kindUnallocated clusterKind = iota
	kindZeroPlain
	kindZeroAlloc
	kindNormal
	kindCompressed
)

func (im *image) kind(e ondisk.L2Entry) clusterKind {
	switch {
	case e.Desc&ondisk.FlagCompressed != 0:
		return kindCompressed
	case !im.extended && e.Desc&ondisk.FlagZero != 0:
		if e.Desc&ondisk.OffsetMask != 0 {
			return kindZeroAlloc
		}
		return kindZeroPlain
	case e.Desc&ondisk.OffsetMask != 0:
		return kindNormal
	case im.external && e.Desc&ondisk.FlagCopied != 0:
		return kindNormal // offset 0 of the data file
	}
	return kindUnallocated
}

func hostOffset(e ondisk.L2Entry) int64 { return int64(e.Desc & ondisk.OffsetMask) }

// badEntry tells whether an entry cannot be right.
func (im *image) badEntry(e ondisk.L2Entry) string {
	k := im.kind(e)
	if (k == kindNormal || k == kindZeroAlloc) && hostOffset(e)&(im.clusterSize-1) != 0 {
		return "cluster allocation offset unaligned"
	}
	if im.version < 3 && (k == kindZeroPlain || k == kindZeroAlloc) {
		return "zero cluster entry found in pre-v3 image"
	}
	if k == kindCompressed && im.external {
		return "compressed cluster entry found in image with external data file"
	}
	if im.extended && k != kindCompressed {
		alloc, zero := uint32(e.Bitmap), uint32(e.Bitmap>>32)
		if alloc&zero != 0 {
			return "subcluster both allocated and zero"
		}
		if alloc != 0 && k == kindUnallocated {
			return "allocated subclusters in an unallocated cluster"
		}
	}
	return ""
}

func (im *image) entryError(ctx context.Context, c int64, e ondisk.L2Entry, what string) error {
	l1, _, _ := im.entryOf(c)
	im.meta.RLock()
	table, _ := im.tableOffset(l1)
	im.meta.RUnlock()
	return im.corruption(ctx, "%s: %#x (L2 offset: %#x, L2 index: %#x)", what, e.Desc, table, c&(1<<im.l2Bits-1))
}

// misplaced says whether an entry for guest offset off names another place than that
// in the external data file, where every cluster is at its guest offset (section
// "Incompatible features", bit 2).
func (im *image) misplaced(off int64, e ondisk.L2Entry) bool {
	k := im.kind(e)
	return im.external && (k == kindNormal || k == kindZeroAlloc) && hostOffset(e) != off
}

func (im *image) misplacedError(ctx context.Context, off, host int64) error {
	return im.corruption(ctx, "external data file host cluster offset %#x does not match guest cluster offset: %#x, L2 index: %#x",
		host, off, off>>im.clusterBits&(1<<im.l2Bits-1))
}

// piece is a run of the disk of one nature.
type piece struct {
	kind   driver.ExtentKind
	host   int64
	hasOff bool
	n      int64
}

// add extends p by q if q continues it.
func (p *piece) add(q piece) bool {
	if p.n == 0 {
		*p = q
		return true
	}
	if p.kind != q.kind || p.hasOff != q.hasOff || p.hasOff && p.host+p.n != q.host {
		return false
	}
	p.n += q.n
	return true
}

// Map tells where the guest bytes at off are. It does not allocate memory unless
// an L2 table must be read.
func (im *image) Map(ctx context.Context, off, n int64) (driver.Extent, error) {
	size := im.size.Load()
	if off >= size {
		return driver.Extent{Kind: driver.ExtentEOF}, nil
	}
	return im.mapRange(ctx, off, min(n, size-off))
}

// mapRange is Map without a look at the size of the disk.
func (im *image) mapRange(ctx context.Context, off, n int64) (driver.Extent, error) {
	if err := im.needKey(); err != nil {
		return driver.Extent{}, err
	}
	var acc piece
	for acc.n < n {
		pos := off + acc.n
		im.meta.RLock()
		missing, bad, done := im.mapSome(&acc, off, n)
		im.meta.RUnlock()
		if bad != nil {
			if acc.n > 0 {
				break // report what is good; the damage is reported to a caller that asks for it
			}
			return driver.Extent{}, im.entryError(ctx, pos>>im.clusterBits, bad.entry, bad.what)
		}
		if done {
			break
		}
		if missing != 0 {
			c := (off + acc.n) >> im.clusterBits
			err := im.checkL2Offset(ctx, c)
			if err == nil {
				err = im.cache.Load(ctx, im.file, missing)
			}
			if err != nil {
				if acc.n > 0 {
					break
				}
				return driver.Extent{}, err
			}
		}
		if err := ctx.Err(); err != nil {
			return driver.Extent{}, err
		}
	}
	if im.external && acc.hasOff && acc.host != off {
		return driver.Extent{}, im.misplacedError(ctx, off, acc.host)
	}
	x := driver.Extent{Length: min(acc.n, n), Kind: acc.kind, HostOffset: acc.host, HasOffset: acc.hasOff}
	switch acc.kind {
	case driver.ExtentData:
		if !im.external && x.HostOffset+x.Length > im.file.Size() {
			if err := im.withinFile(off, &x); err != nil {
				return driver.Extent{}, err
			}
		}
		x.Child = im.child(off, x.HostOffset)
		x.Recurse = im.crypto == nil && im.preallocated(ctx)
	case driver.ExtentZero, driver.ExtentUnallocated:
		if x.HasOffset {
			x.Child = im.child(off, x.HostOffset)
		}
	case driver.ExtentEncoded:
		x.Compressed = true
	}
	return x, nil
}

type badEntry struct {
	entry ondisk.L2Entry
	what  string
}

// mapSome extends acc from its end towards off+n until a slice is missing, a bad
// entry is met, or another piece begins (done). meta is held.
func (im *image) mapSome(acc *piece, off, n int64) (missing int64, bad *badEntry, done bool) {
	for acc.n < n {
		pos := off + acc.n
		c := pos >> im.clusterBits
		s, i, miss := im.sliceFor(c)
		if s == nil && miss != 0 {
			return miss, nil, false
		}
		if s == nil { // no L2 table: all that it would map
			end := (pos/im.l2Range() + 1) * im.l2Range()
			if !acc.add(piece{kind: driver.ExtentUnallocated, n: end - pos}) {
				return 0, nil, true
			}
			continue
		}
		var more bool
		if im.extended {
			more, bad = im.mapExtended(acc, s.Data, i, pos, off+n)
		} else {
			more, bad = im.mapStandard(acc, s.Data, i, pos, off+n)
		}
		if bad != nil || !more {
			return 0, bad, true
		}
	}
	return 0, nil, true
}

// mapStandard extends acc with entries of b from index i on, for the guest range
// from pos to end. more is false if another piece begins.
func (im *image) mapStandard(acc *piece, b []byte, i int, pos, end int64) (more bool, bad *badEntry) {
	in := pos & (im.clusterSize - 1)
	for last := len(b) / 8; i < last && pos < end; i++ {
		e := ondisk.L2Entry{Desc: be64(b[i*8:])}
		p := piece{n: im.clusterSize - in}
		k := im.kind(e)
		switch k {
		case kindUnallocated:
			p.kind = driver.ExtentUnallocated
		case kindZeroPlain:
			p.kind = driver.ExtentZero
		case kindCompressed:
			p.kind = driver.ExtentEncoded
		default:
			p.kind, p.host, p.hasOff = driver.ExtentData, hostOffset(e)+in, true
			if k == kindZeroAlloc {
				p.kind = driver.ExtentZero
			}
		}
		if k != kindUnallocated {
			if what := im.badEntry(e); what != "" {
				return false, &badEntry{e, what}
			}
		}
		if !acc.add(p) {
			return false, nil
		}
		pos += p.n
		in = 0
	}
	return true, nil
}

// mapExtended is mapStandard for entries with subclusters.
func (im *image) mapExtended(acc *piece, b []byte, i int, pos, end int64) (more bool, bad *badEntry) {
	for last := len(b) / 16; i < last && pos < end; i++ {
		e := ondisk.LoadL2(b, i, true)
		if what := im.badEntry(e); what != "" {
			return false, &badEntry{e, what}
		}
		in := pos & (im.clusterSize - 1)
		for in < im.clusterSize {
			p := im.subclusterPiece(e, in)
			if !acc.add(p) {
				return false, nil
			}
			pos, in = pos+p.n, in+p.n
		}
	}
	return true, nil
}

// subclusterPiece describes the cluster of an extended entry from byte in on, up
// to where the nature of its subclusters changes.
func (im *image) subclusterPiece(e ondisk.L2Entry, in int64) piece {
	k := im.kind(e)
	if k == kindCompressed {
		return piece{kind: driver.ExtentEncoded, n: im.clusterSize - in}
	}
	alloc, zero := uint32(e.Bitmap), uint32(e.Bitmap>>32)
	sub := uint(in >> im.subBits)
	p := piece{kind: driver.ExtentUnallocated}
	same := ^(alloc | zero)
	switch {
	case alloc>>sub&1 != 0:
		p.kind, same = driver.ExtentData, alloc
	case zero>>sub&1 != 0:
		p.kind, same = driver.ExtentZero, zero
	}
	run := bits.TrailingZeros32(^(same >> sub))
	stop := min(int64(sub)+int64(run), ondisk.SubclustersPerCluster) << im.subBits
	p.n = stop - in
	if k == kindNormal {
		p.host, p.hasOff = hostOffset(e)+in, true
	}
	return p
}

// preallocated tells whether clusters were allocated without writing data, so
// that holes of the file are worth asking for. As in QEMU, that is so if
// noticeably more clusters are referenced than the file occupies.
func (im *image) preallocated(ctx context.Context) bool {
	switch im.recurse.Load() {
	case 1:
		return false
	case 2:
		return true
	}
	im.recurseMu.Lock()
	defer im.recurseMu.Unlock()
	if v := im.recurse.Load(); v != 0 {
		return v == 2
	}
	v := int32(1)
	if found, err := im.detectPreallocation(ctx); err == nil && found {
		v = 2
	}
	im.recurse.Store(v)
	return v == 2
}

func (im *image) detectPreallocation(ctx context.Context) (bool, error) {
	usage, err := driver.DiskUsage(ctx, im.file)
	if err != nil || usage < 0 {
		return false, err
	}
	occupied := usage >> im.clusterBits
	threshold := max(occupied*10/9, occupied+2)
	clusters := im.clusters(im.file.Size())
	if clusters < threshold {
		return false, nil
	}
	im.hdrMu.Lock()
	table, regions := int64(im.hdr.RefcountTableOffset), int64(im.hdr.RefcountTableClusters)<<(im.clusterBits-3)
	im.hdrMu.Unlock()
	buf := make([]byte, im.clusterSize)
	perBlock := int64(1) << im.refBlockBits
	var count int64
	for region := int64(0); region*perBlock < clusters && region < regions; region++ {
		var entry [8]byte
		if err := tableio.ReadPadded(ctx, im.file, entry[:], table+region*8); err != nil {
			return false, err
		}
		off := int64(be64(entry[:]) &^ ondisk.ReftReservedMask)
		if off <= 0 || off >= im.file.Size() {
			continue
		}
		if err := tableio.ReadPadded(ctx, im.file, buf, off); err != nil {
			return false, err
		}
		for i := range min(perBlock, clusters-region*perBlock) {
			if ondisk.GetRefcount(buf, int(i), im.refOrder) != 0 {
				if count++; count >= threshold {
					return true, nil
				}
			}
		}
	}
	return false, nil
}
