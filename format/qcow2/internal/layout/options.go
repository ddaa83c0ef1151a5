package layout

import (
	"math/bits"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/crypto/luks"
	"github.com/cowl-disk/cowl/format/qcow2/ondisk"
	"github.com/cowl-disk/cowl/opts"
)

// createOptions declares what Create and Measure accept.
type createOptions struct {
	BackingFile     string  `opt:"backing_file" help:"File name of a base image"`
	BackingFormat   string  `opt:"backing_fmt" help:"Image format of the base image"`
	ClusterSize     int64   `opt:"cluster_size" type:"size" default:"65536" help:"qcow2 cluster size"`
	Compat          string  `opt:"compat" help:"Compatibility level (v2 [0.10] or v3 [1.1])"`
	CompressionType string  `opt:"compression_type" default:"zlib" help:"Compression method used for image cluster compression"`
	DataFile        string  `opt:"data_file" help:"File name of an external data file"`
	DataFileRaw     bool    `opt:"data_file_raw" help:"The external data file must stay valid as a raw image"`
	CipherAlg       *string `opt:"encrypt.cipher-alg" help:"Name of encryption cipher algorithm"`
	CipherMode      *string `opt:"encrypt.cipher-mode" help:"Name of encryption cipher mode"`
	EncryptFormat   *string `opt:"encrypt.format" help:"Encrypt the image, format choices: 'aes', 'luks'"`
	HashAlg         *string `opt:"encrypt.hash-alg" help:"Name of encryption hash algorithm"`
	IterTime        *int64  `opt:"encrypt.iter-time" help:"Time to spend in PBKDF in milliseconds"`
	IVGenAlg        *string `opt:"encrypt.ivgen-alg" help:"Name of IV generator algorithm"`
	IVGenHashAlg    *string `opt:"encrypt.ivgen-hash-alg" help:"Name of IV generator hash algorithm"`
	KeySecret       *string `opt:"encrypt.key-secret" help:"ID of secret providing qcow AES key or LUKS passphrase"`
	Encryption      *bool   `opt:"encryption" help:"Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"`
	ExtendedL2      bool    `opt:"extended_l2" default:"off" help:"Extended L2 tables"`
	KeepDataFile    bool    `opt:"keep_data_file" help:"Assume the external data file already exists and do not overwrite it"`
	LazyRefcounts   bool    `opt:"lazy_refcounts" default:"off" help:"Postpone refcount updates"`
	Preallocation   string  `opt:"preallocation" help:"Preallocation mode (allowed values: off, metadata, falloc, full)"`
	RefcountBits    int64   `opt:"refcount_bits" default:"16" help:"Width of a reference count entry in bits"`
	Size            int64   `opt:"size" type:"size" help:"Virtual disk size"`
}

// Schema declares the options of Create, Measure and NewStream.
var Schema = opts.SchemaOf(createOptions{})

// minExtendedL2Cluster is the smallest cluster size whose subclusters are not
// smaller than a sector.
const minExtendedL2Cluster = 16384

// maxDiskSize is the largest disk that QEMU's block layer takes.
const maxDiskSize = 1<<63 - 1<<30

// createParams are the checked options of a new image.
type createParams struct {
	version         uint32
	clusterBits     uint32
	refcountOrder   uint32
	compressionType uint8
	extendedL2      bool
	lazyRefcounts   bool
	prealloc        driver.Prealloc
	backing         string
	backingFormat   string
	dataFile        string
	dataFileRaw     bool
	keepDataFile    bool
	size            int64

	crypt     uint32 // encryption method
	luks      luks.CreateOptions
	keySecret string
}

func text(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// ClusterSize returns the cluster size, in bytes, that options ask for.
func ClusterSize(options opts.Dict) (int64, error) {
	p, err := decodeCreate(options, 0)
	if err != nil {
		return 0, err
	}
	return 1 << p.clusterBits, nil
}

// decodeCreate checks options and their combinations, in the order of the
// original. size is rounded up to sectors.
func decodeCreate(d opts.Dict, size int64) (*createParams, error) {
	var o createOptions
	if err := Schema.Decode(d, &o); err != nil {
		return nil, err
	}
	if size == 0 {
		size = o.Size
	}
	p := &createParams{prealloc: driver.Prealloc(o.Preallocation), extendedL2: o.ExtendedL2,
		lazyRefcounts: o.LazyRefcounts, backing: o.BackingFile, backingFormat: o.BackingFormat,
		dataFile: o.DataFile, dataFileRaw: o.DataFileRaw, keepDataFile: o.KeepDataFile}
	if err := p.setEncryption(&o); err != nil {
		return nil, err
	}
	switch o.Compat {
	case "", "1.1", "v3":
		p.version = 3
	case "0.10", "v2":
		p.version = 2
	default:
		return nil, invalid("parameter 'version' does not accept value '%s'", o.Compat)
	}
	switch p.prealloc {
	case "":
		p.prealloc = driver.PreallocOff
	case driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull:
	default:
		return nil, invalid("parameter 'preallocation' does not accept value '%s'", p.prealloc)
	}
	switch o.CompressionType {
	case "zlib":
	case "zstd":
		p.compressionType = ondisk.CompressionZstd
	default:
		return nil, invalid("parameter 'compression-type' does not accept value '%s'", o.CompressionType)
	}
	const upgrade = "compatibility level 1.1 and above (use version=v3 or greater)"
	if o.ExtendedL2 && p.version < 3 {
		return nil, invalid("extended L2 entries are only supported with " + upgrade)
	}
	if err := p.setClusterSize(o.ClusterSize); err != nil {
		return nil, err
	}
	if p.backing != "" && p.prealloc != driver.PreallocOff && !p.extendedL2 {
		return nil, invalid("backing file and preallocation can only be used at the same time if extended_l2 is on")
	}
	if p.backingFormat != "" && p.backing == "" {
		return nil, invalid("backing format cannot be used without backing file")
	}
	if p.lazyRefcounts && p.version < 3 {
		return nil, invalid("lazy refcounts only supported with " + upgrade)
	}
	if o.RefcountBits < 1 || o.RefcountBits > ondisk.MaxRefcountBits || o.RefcountBits&(o.RefcountBits-1) != 0 {
		return nil, invalid("refcount width must be a power of two and may not exceed 64 bits")
	}
	if o.RefcountBits != 16 && p.version < 3 {
		return nil, invalid("different refcount widths than 16 bits require compatibility level 1.1 or above (use version=v3 or greater)")
	}
	p.refcountOrder = uint32(bits.TrailingZeros64(uint64(o.RefcountBits)))
	if p.dataFileRaw && p.dataFile == "" {
		return nil, invalid("data-file-raw requires data-file")
	}
	if p.dataFileRaw && p.backing != "" {
		return nil, invalid("backing file and data-file-raw cannot be used at the same time")
	}
	if p.dataFileRaw && p.prealloc == driver.PreallocOff {
		// The file is to read the same with and without the metadata, so the
		// metadata must be there.
		p.prealloc = driver.PreallocMetadata
	}
	if err := p.checkKeep(); err != nil {
		return nil, err
	}
	if p.dataFile != "" && p.version < 3 {
		return nil, invalid("external data files are only supported with " + upgrade)
	}
	if p.compressionType != ondisk.CompressionZlib && p.version < 3 {
		return nil, invalid("non-zlib compression type is only supported with " + upgrade)
	}
	if len(p.backing) > ondisk.MaxBackingName {
		return nil, invalid("could not assign backing file '%s' with format '%s': invalid argument", p.backing, p.backingFormat)
	}
	return p, p.setSize(size)
}

// checkKeep refuses a data file that is to be kept and would not be seen or not be kept.
func (p *createParams) checkKeep() error {
	switch {
	case !p.keepDataFile:
		return nil
	case p.dataFile == "":
		return invalid("must not use 'keep_data_file=on' without 'data_file'")
	case p.prealloc == driver.PreallocOff:
		return invalid("'keep_data_file=on' requires 'preallocation=metadata' or 'data_file_raw=on', or the file contents will not be visible")
	case p.prealloc != driver.PreallocMetadata:
		return invalid("preallocating more than only metadata would overwrite the external data file's content and is therefore incompatible with 'keep_data_file=on'")
	}
	return nil
}

func (p *createParams) setClusterSize(n int64) error {
	if n < 1<<ondisk.MinClusterBits || n > 1<<ondisk.MaxClusterBits || n&(n-1) != 0 {
		return invalid("cluster size must be a power of two between %d and %dk",
			1<<ondisk.MinClusterBits, 1<<(ondisk.MaxClusterBits-10))
	}
	if p.extendedL2 && n < minExtendedL2Cluster {
		return invalid("extended L2 entries are only supported with cluster sizes of at least %d bytes", minExtendedL2Cluster)
	}
	p.clusterBits = uint32(bits.TrailingZeros64(uint64(n)))
	return nil
}

func (p *createParams) setSize(size int64) error {
	if size < 0 || size > 1<<63-ondisk.SectorSize {
		return invalid("could not resize image: Image size cannot be negative")
	}
	p.size = (size + ondisk.SectorSize - 1) &^ (ondisk.SectorSize - 1)
	if p.size > maxDiskSize {
		return invalid("could not resize image: offset(%d) exceeds maximum(%d)", p.size, int64(maxDiskSize))
	}
	if p.l1Size() > ondisk.MaxL1Bytes/8 {
		return errTooLarge()
	}
	return nil
}

func (p *createParams) entrySize() int64 { return int64(ondisk.L2EntrySize(p.extendedL2)) }

// fillUnit returns how many bytes are filled when a cluster is preallocated for
// less than its size.
func (p *createParams) fillUnit() int64 {
	if p.extendedL2 {
		return 1 << p.clusterBits / ondisk.SubclustersPerCluster
	}
	return 1 << p.clusterBits
}

// l1Size returns the number of L1 entries that the size takes.
func (p *createParams) l1Size() int64 {
	perTable := int64(1) << p.clusterBits / p.entrySize()
	clusters := p.size >> p.clusterBits
	if p.size&(1<<p.clusterBits-1) != 0 {
		clusters++
	}
	return (clusters + perTable - 1) / perTable
}

// header returns the header of the image as far as the options determine it.
func (p *createParams) header() *ondisk.Header {
	h := &ondisk.Header{Version: p.version, ClusterBits: p.clusterBits, Size: uint64(p.size),
		RefcountOrder: p.refcountOrder, CompressionType: p.compressionType, CryptMethod: p.crypt}
	if p.lazyRefcounts {
		h.Compatible |= ondisk.CompatLazyRefcounts
	}
	if p.dataFile != "" {
		h.Incompatible |= ondisk.IncompatDataFile
	}
	if p.dataFileRaw {
		h.Autoclear |= ondisk.AutoclearDataFileRaw
	}
	if p.compressionType != ondisk.CompressionZlib {
		h.Incompatible |= ondisk.IncompatCompression
	}
	if p.extendedL2 {
		h.Incompatible |= ondisk.IncompatExtendedL2
	}
	return h
}
