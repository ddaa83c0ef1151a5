package incus

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/ext4"
	"github.com/cowl-disk/cowl/fat"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/opts"
	"github.com/cowl-disk/cowl/partition"
)

// VMOptions says how the disk of a virtual machine is made. Sizes and the file system are
// those of the definition.
type VMOptions struct {
	// Boot is where boot files come from, one of BootWays; "" is BootAuto.
	Boot string
	// UUID of the root file system; where it is zero, it depends on the tree.
	UUID [16]byte
}

// RootNames returns how the root file system with that UUID and its partition are called,
// UUID=… and PARTUUID=….
func RootNames(uuid [16]byte) (fs, part string) {
	id := hex.EncodeToString(uuid[:])
	return "UUID=" + id[:8] + "-" + id[8:12] + "-" + id[12:16] + "-" + id[16:20] + "-" + id[20:], partName(rootGUID(uuid))
}

func partName(g partition.GUID) string { return "PARTUUID=" + strings.ToLower(g.String()) }

func rootGUID(uuid [16]byte) partition.GUID {
	return partition.DeriveGUID("root", hex.EncodeToString(uuid[:]))
}

const (
	mib = 1 << 20
	// usualDisk and usualBoot are the sizes of a disk and its EFI system partition whose
	// definition names none, as in distrobuilder.
	usualDisk = 4 << 30
	usualBoot = 100 * mib
	// growth is up to which size the file system can grow while it is mounted.
	growth    = 536870912 * 4096
	rootLabel = "rootfs"
	bootLabel = "UEFI"
	unit      = 1 * mib // partitions begin at multiples of it
	diskUnit  = 64 << 10
)

// vmDisk is the layout of a disk.
type vmDisk struct {
	size       int64
	boot, root partition.Partition
	loader     *bootLoader
	btrfs      bool
	ext4       ext4.Options
}

// planDisk computes the sizes, before anything is written.
func (p *packing) planDisk() (*vmDisk, error) {
	vm := p.image.Definition.Targets.Incus.VM
	switch vm.Filesystem {
	case "", "ext4", "btrfs":
	default:
		return nil, fmt.Errorf("targets.incus.vm.filesystem: %q is not supported, only ext4 and btrfs", vm.Filesystem)
	}
	if vm.Size > 1<<50 || vm.BootSize > 1<<40 {
		return nil, fmt.Errorf("targets.incus.vm: a disk of %d bytes with %d bytes for booting is out of range", vm.Size, vm.BootSize)
	}
	d := &vmDisk{btrfs: vm.Filesystem == "btrfs"}
	var err error
	if d.loader, err = p.image.findLoader(p.VM.Boot); err != nil {
		return nil, err
	}
	bootSize := int64(vm.BootSize)
	if bootSize == 0 {
		bootSize = usualBoot
		for need := d.loader.bytes() * 5 / 4; bootSize < need; {
			bootSize += 64 * mib
		}
	}
	d.boot = partition.Partition{Number: 1, Start: unit, Length: bootSize / sector * sector, TypeGUID: partition.TypeEFISystem}
	d.ext4 = ext4.Options{BytesPerInode: 8192, ResizeLimit: growth, Label: rootLabel, Time: p.image.Time, UUID: p.VM.UUID}
	var need int64
	if d.btrfs {
		d.loader.subvolume = subvolume
		need, err = btrfsNeeds(p.image.Tree.Root)
	} else {
		need, err = ext4.MinSize(p.image.Tree.Root, d.ext4)
	}
	if err != nil {
		return nil, err
	}
	start := (d.boot.Start + d.boot.Length + unit - 1) / unit * unit
	_, tail := partition.GPTReserved(sector)
	if d.size = int64(vm.Size) / sector * sector; d.size == 0 {
		d.size = usualDisk
		if slack := need*5/4 + 256*mib; start+slack+tail > d.size { // room to work in
			d.size = (start + slack + tail + 1<<30 - 1) >> 30 << 30
		}
	}
	d.root = partition.Partition{Number: 2, Start: start, Length: d.size - tail - start, TypeGUID: partition.TypeLinuxFilesystem}
	if d.root.Length < need {
		return nil, fmt.Errorf("the root file system needs %d bytes, but there are %d on a disk of %d: set targets.incus.vm.size to %d at least",
			need, max(d.root.Length, 0), d.size, start+need+tail)
	}
	d.ext4.Size = d.root.Length
	return d, nil
}

// writeDisk writes a disk with its partitions into a new qcow2 in the file, in one pass, or
// copies the one that is there.
func (p *packing) writeDisk(ctx context.Context, f *output) error {
	if p.disk != nil {
		return copyContent(ctx, f, p.disk, func(done int64) { p.Progress("disk", done, p.disk.Size) })
	}
	if p.Registry == nil {
		return errors.New("PackOptions.Registry must be set for VM images")
	}
	p.image.prepareBoot()
	plan, err := p.planDisk()
	if err != nil {
		return err
	}
	path, err := filepath.Abs(f.Path())
	if err != nil {
		return err
	}
	options := opts.Dict{}
	if p.Compression.Method == "zstd" {
		options["compression_type"] = "zstd"
	}
	if err := ops.Create(ctx, ops.CreateJob{Registry: p.Registry, Filename: path, Format: "qcow2", Size: plan.size, Options: options}); err != nil {
		return err
	}
	img, err := block.Open(ctx, p.Registry, block.Source{Filename: path, Format: "qcow2"}, block.OpenOptions{Write: true, Gate: driver.DenyAll, Sharing: block.Sharing{Exclusive: true}})
	if err != nil {
		return err
	}
	d := newDisk(ctx, img, diskUnit, p.Compression.Method != "none")
	var total int64
	for _, n := range p.image.Tree.Root.Walk() {
		total += n.Size
	}
	d.progress = func(done int64) {
		f.written(done)
		p.Progress("disk", min(done, total), total)
	}
	err = p.fill(ctx, d, plan)
	if err == nil {
		err = d.Flush()
	}
	d.stop()
	if err := errors.Join(err, img.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	if p.NoVerify {
		return nil
	}
	p.Progress("verify", 0, 0)
	return p.checkDisk(ctx, path)
}

// at writes to a part of a disk.
type at struct {
	io.WriterAt
	start int64
}

func (a at) WriteAt(b []byte, off int64) (int, error) { return a.WriterAt.WriteAt(b, a.start+off) }

// fill writes the file systems and the table.
func (p *packing) fill(ctx context.Context, d io.WriterAt, plan *vmDisk) error {
	uuid, err := p.fillRoot(ctx, at{d, plan.root.Start}, plan)
	if err != nil {
		return fmt.Errorf("failed to create root filesystem: %w", err)
	}
	id := hex.EncodeToString(uuid[:])
	table := partition.Table{DiskGUID: partition.DeriveGUID("disk", id)}
	plan.boot.GUID, plan.root.GUID = partition.DeriveGUID("boot", id), rootGUID(uuid)
	table.Partitions = []partition.Partition{plan.boot, plan.root}
	esp, err := plan.loader.tree(p.image.Time, partName(plan.root.GUID))
	if err != nil {
		return err
	}
	o := fat.Options{Size: plan.boot.Length, Bits: 32, Label: bootLabel, Serial: binary.LittleEndian.Uint32(uuid[:]),
		HiddenSectors: uint32(plan.boot.Start / sector), Time: p.image.Time}
	if err := fat.Write(ctx, at{d, plan.boot.Start}, esp.Root, o); err != nil {
		return fmt.Errorf("failed to create UEFI filesystem: %w", err)
	}
	if err := partition.WriteGPT(d, plan.size, &table); err != nil {
		return fmt.Errorf("failed to create partitions: %w", err)
	}
	return nil
}

// fillRoot writes the root file system and returns its UUID.
func (p *packing) fillRoot(ctx context.Context, d io.WriterAt, plan *vmDisk) ([16]byte, error) {
	if plan.btrfs {
		return p.fillBtrfs(ctx, d, plan.root.Length)
	}
	report, err := ext4.Write(ctx, d, p.image.Tree.Root, plan.ext4)
	if err != nil {
		return [16]byte{}, err
	}
	p.lose(report.Lost...)
	return report.UUID, nil
}

// checkDisk checks the tables of the qcow2 that was written.
func (p *packing) checkDisk(ctx context.Context, path string) error {
	img, err := block.Open(ctx, p.Registry, block.Source{Filename: path, Format: "qcow2"}, block.OpenOptions{Gate: driver.DenyAll})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer img.Close(context.WithoutCancel(ctx))
	r, err := ops.Check(ctx, ops.CheckJob{Image: img})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if r.CheckErrors != 0 || r.Corruptions != nil || r.Leaks != nil {
		return errors.New("read back: the check of the image finds errors")
	}
	table, err := partition.Read(img.ReaderAt(ctx), img.Size())
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if len(table.Partitions) != 2 {
		return fmt.Errorf("read back: the partition table has %d partitions", len(table.Partitions))
	}
	return nil
}
