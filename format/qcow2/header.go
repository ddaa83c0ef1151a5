package qcow2

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/format/qcow2/internal/tableio"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
)

func be32(b []byte) uint32 { return binary.BigEndian.Uint32(b) }
func be64(b []byte) uint64 { return binary.BigEndian.Uint64(b) }

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// headerRead is how much of the first cluster is read at once. The extensions of most images end there.
const headerRead = 4096

// loadHeader reads and checks the header, its extensions and the backing file
// name. hdrMu is held once the image is shared.
func (im *image) loadHeader(ctx context.Context) error {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	unsupported := func(format string, args ...any) error {
		return driver.Errorf(driver.ErrUnsupported, format, args...)
	}
	start := make([]byte, headerRead)
	if err := tableio.ReadPadded(ctx, im.file, start, 0); err != nil {
		return driver.Errorf(nil, "could not read qcow2 header: %w", err)
	}
	h, err := ondisk.DecodeHeader(start[:ondisk.HeaderSizeFull])
	if err != nil {
		return driver.Errorf(driver.ErrFormat, "image is not in qcow2 format")
	}
	if h.Version < 2 || h.Version > 3 {
		return unsupported("unsupported qcow2 version %d", h.Version)
	}
	if h.ClusterBits < ondisk.MinClusterBits || h.ClusterBits > ondisk.MaxClusterBits {
		return unsupported("unsupported cluster size: 2^%d", h.ClusterBits)
	}
	if h.Version >= 3 && h.HeaderLength < ondisk.HeaderSizeV3 {
		return corrupt("qcow2 header too short")
	}
	if int64(h.HeaderLength) > h.ClusterSize() {
		return corrupt("qcow2 header exceeds cluster size")
	}
	if h.BackingFileOffset > uint64(h.ClusterSize()) {
		return corrupt("invalid backing file offset")
	}
	first, err := im.firstCluster(ctx, h, start)
	if err != nil {
		return driver.Errorf(nil, "could not read qcow2 header: %w", err)
	}
	if h, err = ondisk.DecodeHeader(first); err != nil {
		return driver.Errorf(driver.ErrFormat, "image is not in qcow2 format")
	}
	if h.HeaderLength <= ondisk.HeaderSizeV3 {
		h.CompressionType = ondisk.CompressionZlib
	}
	if h.CompressionType > ondisk.CompressionZstd {
		return unsupported("qcow2: unknown compression type: %d", h.CompressionType)
	}
	if bit := h.Incompatible&ondisk.IncompatCompression != 0; bit != (h.CompressionType != ondisk.CompressionZlib) {
		if bit {
			return corrupt("qcow2: Compression type incompatible feature bit must not be set")
		}
		return corrupt("qcow2: Compression type incompatible feature bit must be set")
	}
	exts, extErr := ondisk.DecodeExtensions(extensionArea(h, first))
	if unknown := h.Incompatible &^ ondisk.IncompatKnown; unknown != 0 {
		return unsupported("unsupported qcow2 feature(s): %s", featureNames(exts, unknown))
	}
	if h.Incompatible&ondisk.IncompatCorrupt != 0 && im.writable && !im.access.Check {
		return corrupt("qcow2: Image is corrupt; cannot be opened read/write")
	}
	if h.ExtendedL2() && h.ClusterSize()/ondisk.SubclustersPerCluster < 512 {
		return unsupported("unsupported subcluster size: %d", h.ClusterSize()/ondisk.SubclustersPerCluster)
	}
	if h.RefcountOrder > 6 {
		return unsupported("reference count entry width too large; may not exceed 64 bits")
	}
	if h.CryptMethod > ondisk.CryptLUKS {
		return unsupported("unsupported encryption method %d", h.CryptMethod)
	}
	if h.Size > 1<<63-1-uint64(h.ClusterSize()) {
		return corrupt("image is too big")
	}
	im.geometry = newGeometry(h)
	if err := im.checkTables(h); err != nil {
		return err
	}
	if extErr != nil {
		return corrupt("header extension too large")
	}
	if err := im.useExtensions(h, exts); err != nil {
		return err
	}
	im.backing = ""
	if h.BackingFileOffset != 0 {
		n := int64(h.BackingFileSize)
		if n > min(ondisk.MaxBackingName, h.ClusterSize()-int64(h.BackingFileOffset)) {
			return corrupt("backing file name too long")
		}
		name := make([]byte, n)
		if err := tableio.ReadPadded(ctx, im.file, name, int64(h.BackingFileOffset)); err != nil {
			return driver.Errorf(nil, "could not read backing file name: %w", err)
		}
		im.backing, _, _ = strings.Cut(string(name), "\x00")
	}
	im.hdr, im.exts = *h, cloneExtensions(exts)
	im.size.Store(ondisk.WholeSectors(h.Size))
	return nil
}

// firstCluster returns the first cluster, or what the file has of it, from its start. What is behind the end of the extensions
// may be left out.
func (im *image) firstCluster(ctx context.Context, h *ondisk.Header, start []byte) ([]byte, error) {
	n := min(h.ClusterSize(), max(im.file.Size(), int64(h.HeaderLength)))
	if n <= int64(len(start)) {
		return start[:n], nil
	}
	area := extensionArea(h, start)
	if exts, err := ondisk.DecodeExtensions(area); err == nil {
		end := ondisk.ExtensionHeaderSize
		for _, e := range exts {
			end += ondisk.ExtensionHeaderSize + (len(e.Data)+7)&^7
		}
		if end <= len(area) {
			return start, nil
		}
	}
	first := make([]byte, n)
	return first, tableio.ReadPadded(ctx, im.file, first, 0)
}

// extensionArea is where the extensions are: behind the header, and before the name of the backing file.
func extensionArea(h *ondisk.Header, first []byte) []byte {
	end := int64(len(first))
	if h.BackingFileOffset != 0 {
		end = min(end, int64(h.BackingFileOffset))
	}
	if int64(h.HeaderLength) >= end {
		return nil
	}
	return first[h.HeaderLength:end]
}

// checkTables judges place and size of the tables that the header names.
func (im *image) checkTables(h *ondisk.Header) error {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	if h.RefcountTableClusters == 0 && !im.access.Check {
		return corrupt("image does not contain a reference count table")
	}
	if err := im.checkTable(h.RefcountTableOffset, int64(h.RefcountTableClusters), im.clusterSize, ondisk.MaxRefcountTableBytes, "reference count table"); err != nil {
		return err
	}
	if !im.access.Check {
		err := im.checkTable(h.SnapshotsOffset, int64(h.NbSnapshots), ondisk.SnapshotFixedSize, ondisk.SnapshotFixedSize*ondisk.MaxSnapshots, "snapshot table")
		if err = im.tolerate("snapshot table", err, &im.snapshotDamage); err != nil {
			return err
		}
	}
	if err := im.checkTable(h.L1TableOffset, int64(h.L1Size), 8, ondisk.MaxL1Bytes, "active L1 table"); err != nil {
		return err
	}
	need := im.l1Entries(int64(h.Size))
	if need > 1<<31-1 {
		return corrupt("image is too big")
	}
	if int64(h.L1Size) < need {
		return corrupt("L1 table is too small")
	}
	return nil
}

// tolerate decides about an error in a part of the image that the disk itself can be
// read without. An image that is open for reading goes on without that part: the
// damage is noted and the user warned. It returns the error otherwise.
func (im *image) tolerate(what string, err error, damage *error) error {
	if err == nil || im.writable || im.access.Check || !errors.Is(err, driver.ErrCorrupt) {
		return err
	}
	if *damage == nil {
		*damage = err
		im.env.Warn(fmt.Sprintf("the %s is damaged and left out, the disk can only be read: %s", what, im.env.InWords(err)))
	}
	return nil
}

// checkTable checks a table of n entries of size bytes at off.
func (im *image) checkTable(off uint64, n, size, maxBytes int64, what string) error {
	if n > maxBytes/size {
		return driver.Errorf(driver.ErrCorrupt, "%s too large", what)
	}
	if off > 1<<63-1-uint64(n*size) || off&uint64(im.clusterSize-1) != 0 {
		return driver.Errorf(driver.ErrCorrupt, "%s offset invalid", what)
	}
	return nil
}

// useExtensions judges the extensions that mean something here.
func (im *image) useExtensions(h *ondisk.Header, exts []ondisk.Extension) error {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	im.backingFormat, im.bitmapsExt, im.bitmapsStale = "", ondisk.BitmapsExtension{}, false
	for _, e := range exts {
		if err := im.env.Budget.Descriptor("header extension", int64(len(e.Data))); err != nil {
			return err
		}
		switch e.Type {
		case ondisk.ExtBackingFormat:
			if len(e.Data) >= ondisk.MaxBackingFormat {
				return corrupt("ERROR: ext_backing_format: len=%d too large (>=%d)", len(e.Data), ondisk.MaxBackingFormat)
			}
			im.backingFormat, _, _ = strings.Cut(string(e.Data), "\x00")
		case ondisk.ExtCrypto:
			if h.CryptMethod != ondisk.CryptLUKS {
				return corrupt("CRYPTO header extension only expected with LUKS encryption method")
			}
			if len(e.Data) != 16 {
				return corrupt("CRYPTO header extension size %d, but expected size %d", len(e.Data), 16)
			}
		case ondisk.ExtBitmaps:
			if h.Autoclear&ondisk.AutoclearBitmaps == 0 {
				im.bitmapsStale = true
				break
			}
			b, err := im.readBitmapsExtension(e.Data)
			if err = im.tolerate("header extension of the bitmaps", err, &im.bitmapDamage); err != nil {
				return err
			}
			if im.bitmapDamage == nil {
				im.bitmapsExt = b
			}
		}
	}
	return nil
}

// readBitmapsExtension decodes and judges the header extension of the bitmaps.
func (im *image) readBitmapsExtension(data []byte) (ondisk.BitmapsExtension, error) {
	corrupt := func(format string, args ...any) error { return driver.Errorf(driver.ErrCorrupt, format, args...) }
	b, err := ondisk.DecodeBitmapsExtension(data)
	switch {
	case err != nil || len(data) != 24:
		return b, corrupt("bitmaps_ext: Invalid extension length")
	case be32(data[4:]) != 0:
		return b, corrupt("bitmaps_ext: Reserved field is not zero")
	case b.Count > ondisk.MaxBitmaps:
		return b, corrupt("bitmaps_ext: Image has %d bitmaps, exceeding the QEMU supported maximum of %d", b.Count, ondisk.MaxBitmaps)
	case b.Count == 0:
		return b, corrupt("found bitmaps extension with zero bitmaps")
	case b.DirectoryOffset&uint64(im.clusterSize-1) != 0 || b.DirectoryOffset > 1<<62:
		return b, corrupt("bitmaps_ext: invalid bitmap directory offset")
	case b.DirectorySize > ondisk.MaxBitmapDirectory:
		return b, corrupt("bitmaps_ext: bitmap directory size (%d) exceeds the maximum supported size (%d)", b.DirectorySize, ondisk.MaxBitmapDirectory)
	}
	return b, nil
}

func cloneExtensions(exts []ondisk.Extension) []ondisk.Extension {
	out := make([]ondisk.Extension, len(exts))
	for i, e := range exts {
		out[i] = ondisk.Extension{Type: e.Type, Data: append([]byte(nil), e.Data...)}
	}
	return out
}

// featureNames names the incompatible feature bits in mask, by the table that
// the image brings.
func featureNames(exts []ondisk.Extension, mask uint64) string {
	var names []string
	for _, e := range exts {
		if e.Type != ondisk.ExtFeatureNames {
			continue
		}
		for _, n := range ondisk.DecodeFeatureNames(e.Data) {
			if n.Name == "" {
				break
			}
			if n.Type == ondisk.FeatureIncompatible && n.Bit < 64 && mask&(1<<n.Bit) != 0 {
				names = append(names, n.Name)
				mask &^= 1 << n.Bit
			}
		}
	}
	if mask != 0 {
		names = append(names, fmt.Sprintf("Unknown incompatible feature: %x", mask))
	}
	return strings.Join(names, ", ")
}

func (im *image) dataFileName() string {
	for _, e := range im.exts {
		if e.Type == ondisk.ExtDataFile {
			name, _, _ := strings.Cut(string(e.Data), "\x00")
			return name
		}
	}
	return ""
}

// writeHeaderField writes some bytes of the header and makes them durable.
// hdrMu is held.
func (im *image) writeHeaderField(ctx context.Context, off int64, b []byte) error {
	if _, err := im.file.WriteAt(ctx, b, off); err != nil {
		return err
	}
	return im.file.Flush(ctx)
}

// setIncompatible changes incompatible feature bits, on disk first.
func (im *image) setIncompatible(ctx context.Context, set, unset uint64) error {
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	v := im.hdr.Incompatible&^unset | set
	if v == im.hdr.Incompatible || im.version < 3 {
		return nil
	}
	if err := im.writeHeaderField(ctx, ondisk.IncompatibleOffset, binary.BigEndian.AppendUint64(nil, v)); err != nil {
		return err
	}
	im.hdr.Incompatible = v
	return nil
}

// ChangeBacking records another backing file, or none.
func (im *image) ChangeBacking(ctx context.Context, ref driver.BackingRef) error {
	if !im.writable {
		return driver.Errorf(driver.ErrReadOnly, "image is read-only")
	}
	if len(ref.Filename) > ondisk.MaxBackingName {
		return driver.Errorf(driver.ErrInvalid, "backing file name too long")
	}
	if len(ref.Format) >= ondisk.MaxBackingFormat {
		return driver.Errorf(driver.ErrInvalid, "backing format name too long")
	}
	if im.dataRaw && ref.Filename != "" {
		return driver.Errorf(driver.ErrInvalid, "cannot use a backing file with a raw external data file")
	}
	im.hdrMu.Lock()
	defer im.hdrMu.Unlock()
	name, format := im.backing, im.backingFormat
	im.backing, im.backingFormat = ref.Filename, ref.Format
	if im.backing == "" {
		im.backingFormat = ""
	}
	if err := im.writeHeader(ctx); err != nil {
		im.backing, im.backingFormat = name, format
		return err
	}
	return nil
}

// corruption reports damage found at run time. As in QEMU, an
// image that is open for writing is marked and no longer written.
func (im *image) corruption(ctx context.Context, format string, args ...any) error {
	err := driver.Errorf(driver.ErrCorrupt, format, args...)
	if im.refused.Swap(true) {
		return err
	}
	if !im.writable {
		im.env.Warn(fmt.Sprintf("qcow2: Image is corrupt: %s; further non-fatal corruption events will be suppressed", im.env.InWords(err)))
		return err
	}
	im.env.Warn(fmt.Sprintf("qcow2: Marking image as corrupt: %s; further corruption events will be suppressed", im.env.InWords(err)))
	if werr := im.setIncompatible(context.WithoutCancel(ctx), ondisk.IncompatCorrupt, 0); werr != nil && im.env.Log != nil {
		im.env.Log.Error("marking image as corrupt", "image", im.name, "error", werr)
	}
	return err
}
