package incus

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/guest"
)

// subvolume is that of the root file system in a btrfs, as fstab names it.
const subvolume = "@"

// btrfsNeeds is about how many bytes a btrfs of a tree has at least.
func btrfsNeeds(root *fstree.Node) (int64, error) {
	need, seen := int64(256*mib), map[*fstree.Node]bool{}
	for p, n := range root.Walk() {
		need += 1 << 10
		if n.Kind != fstree.File || n.Size == 0 || seen[n] {
			continue
		}
		seen[n] = true
		r, err := n.OpenContent()
		if err != nil {
			return 0, fmt.Errorf("%q: %w", p, err)
		}
		for off := int64(0); off < n.Size; {
			start, end, err := r.NextData(off)
			if err != nil {
				r.Close()
				return 0, fmt.Errorf("%q: %w", p, err)
			}
			need += (end-start+4095)/4096*4096 + 64
			off = max(end, off+1)
		}
		if err := r.Close(); err != nil {
			return 0, fmt.Errorf("%q: %w", p, err)
		}
	}
	return need, nil
}

// fillBtrfs makes the root file system in a temporary file by the programs of the host,
// and copies what is not zero.
func (p *packing) fillBtrfs(ctx context.Context, d io.WriterAt, size int64) (uuid [16]byte, err error) {
	if uuid = p.VM.UUID; uuid == [16]byte{} {
		sum := sha256.Sum256(fmt.Appendf(nil, "btrfs %+v %d", p.image.Definition.Image, p.when.Unix()))
		copy(uuid[:], sum[:])
		uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // as a random one (RFC 9562)
	}
	temporary := outputs{dir: p.out.dir, byName: true}
	defer temporary.discard()
	f, err := temporary.create("btrfs")
	if err != nil {
		return uuid, err
	}
	if err := f.Truncate(size); err != nil {
		return uuid, err
	}
	fs, _ := RootNames(uuid)
	if err := guest.MakeBtrfs(ctx, p.image.Tree, f.Name(), rootLabel, strings.TrimPrefix(fs, "UUID="), subvolume, os.TempDir()); err != nil {
		return uuid, err
	}
	if !p.NoVerify {
		if err := guest.CheckBtrfs(ctx, f.Name()); err != nil {
			return uuid, err
		}
	}
	p.image.warn("btrfs is made by the host: the image is not the same each time")
	made, err := fstree.FromFile(f.Name())
	if err != nil {
		return uuid, err
	}
	r, err := made.OpenContent()
	if err != nil {
		return uuid, err
	}
	defer r.Close()
	buf := make([]byte, mib)
	for off := int64(0); off < size; {
		start, end, err := r.NextData(off)
		if err != nil {
			return uuid, err
		}
		// whole clusters, so that each is compressed once
		start = max(off, start/diskUnit*diskUnit)
		n := min(int64(len(buf)), (end-start+diskUnit-1)/diskUnit*diskUnit, size-start)
		if n <= 0 {
			break
		}
		if _, err := r.ReadAt(buf[:n], start); err != nil && err != io.EOF {
			return uuid, fmt.Errorf("read %d bytes at %d of the file system: %w", n, start, err)
		}
		if _, err := d.WriteAt(buf[:n], start); err != nil {
			return uuid, err
		}
		off = start + n
	}
	return uuid, nil
}
