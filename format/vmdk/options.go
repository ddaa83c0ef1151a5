package vmdk

import (
	"fmt"
	"math"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Subformats of new images.
const (
	monolithicSparse = "monolithicSparse"
	monolithicFlat   = "monolithicFlat"
	splitSparse      = "twoGbMaxExtentSparse"
	splitFlat        = "twoGbMaxExtentFlat"
	streamOptimized  = "streamOptimized"

	splitSize = 2 << 30 // bytes of an extent of those that are split
)

// plan is what a new image is to be.
type plan struct {
	createOptions
	size        int64 // bytes, whole sectors
	flat, split bool
	cid         uint32
	parentCID   uint32
}

// newPlan checks options.
func newPlan(d opts.Dict, size int64) (*plan, error) {
	p := &plan{parentCID: noParent}
	if err := desc.CreateOptions.Decode(d, &p.createOptions); err != nil {
		return nil, err
	}
	size = max(size, p.Size)
	if size < 0 || size > math.MaxInt64-sectorSize {
		return nil, invalid("image size must be less than 8 EiB")
	}
	p.size = (size + sectorSize - 1) / sectorSize * sectorSize
	if p.BackingFormat != "" && p.BackingFormat != "vmdk" {
		return nil, invalid("backing_file must be a vmdk image")
	}
	if p.HWVersion == "undefined" {
		p.HWVersion = ""
	}
	switch p.AdapterType {
	case "":
		p.AdapterType = "ide"
	case "ide", "lsilogic", "buslogic", "legacyESX":
	default:
		return nil, invalid("invalid parameter value: %s", p.AdapterType)
	}
	switch p.Subformat {
	case "":
		p.Subformat = monolithicSparse
	case monolithicSparse, monolithicFlat, splitSparse, splitFlat, streamOptimized:
	default:
		return nil, invalid("invalid parameter value: %s", p.Subformat)
	}
	if p.Compat6 {
		if p.HWVersion != "" {
			return nil, invalid("compat6 cannot be enabled with hwversion set")
		}
		p.HWVersion = "6"
	}
	if p.HWVersion == "" {
		p.HWVersion = "4"
	}
	if p.ToolsVersion == "" {
		p.ToolsVersion = "2147483647"
	}
	p.flat = p.Subformat == monolithicFlat || p.Subformat == splitFlat
	p.split = p.Subformat == splitSparse || p.Subformat == splitFlat
	switch {
	case p.flat && p.BackingFile != "":
		return nil, driver.Errorf(driver.ErrUnsupported, "flat image can't have backing file")
	case p.flat && p.ZeroedGrain:
		return nil, driver.Errorf(driver.ErrUnsupported, "flat image can't enable zeroed grain")
	case p.Subformat == streamOptimized && p.size > maxStreamSize:
		return nil, invalid("a streamOptimized image can have a disk of %d TiB at most", maxStreamSize>>40)
	case p.Subformat == monolithicSparse && p.size > maxSparseSize:
		return nil, invalid("a %s image can have a disk of %d TiB at most: use monolithicFlat", p.Subformat, maxSparseSize>>40)
	}
	return p, nil
}

func invalid(format string, args ...any) error {
	return driver.Errorf(driver.ErrInvalid, format, args...)
}

// newHeader is that of a new sparse extent of size bytes, as QEMU and VMware lay it
// out: the descriptor, the redundant directory and its tables, the directory and its
// tables, the grains.
func newHeader(size int64, p *plan) *sparseHeader {
	h := &sparseHeader{version: 1, flags: flagNewline | flagRedundant, capacity: uint64(size / sectorSize), grain: grainSectors,
		descOff: 1, descSize: descSectors, entries: tableEntries}
	if p.ZeroedGrain {
		h.version, h.flags = 2, h.flags|flagZeroGrain
	}
	tables, dirSectors := h.layout()
	h.redundant = h.descOff + h.descSize
	h.dir = h.redundant + dirSectors + tables*tableSectors
	h.overhead = (h.dir + dirSectors + tables*tableSectors + grainSectors - 1) / grainSectors * grainSectors
	return h
}

// layout returns how many tables a disk has, and how many sectors a directory of them.
func (h *sparseHeader) layout() (tables, dirSectors uint64) {
	grains := (h.capacity + h.grain - 1) / h.grain
	tables = (grains + tableEntries - 1) / tableEntries
	return tables, (tables*4 + sectorSize - 1) / sectorSize
}

// text is the descriptor of a new image with extents.
func (p *plan) text(extents []extentLine) string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Disk DescriptorFile\nversion=1\nCID=%x\nparentCID=%x\ncreateType=\"%s\"\n", p.cid, p.parentCID, p.Subformat)
	if p.BackingFile != "" {
		fmt.Fprintf(&b, "parentFileNameHint=\"%s\"", p.BackingFile)
	}
	b.WriteString("\n# Extent description\n")
	for _, x := range extents {
		fmt.Fprintf(&b, "%s %d %s \"%s\"", x.access, x.sectors, x.kind, x.name)
		if x.kind == extentFlat {
			fmt.Fprintf(&b, " %d", x.offset)
		}
		b.WriteString("\n")
	}
	heads := int64(16)
	if p.AdapterType != "ide" {
		heads = 255 // as VMware has it for disks that are not of the IDE kind
	}
	fmt.Fprintf(&b, "\n# The Disk Data Base\n#DDB\n\nddb.virtualHWVersion = \"%s\"\nddb.geometry.cylinders = \"%d\"\nddb.geometry.heads = \"%d\"\nddb.geometry.sectors = \"63\"\nddb.adapterType = \"%s\"\nddb.toolsVersion = \"%s\"\n",
		p.HWVersion, p.size/(63*heads*sectorSize), heads, p.AdapterType, p.ToolsVersion)
	return b.String()
}
