package guest

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/cowl-disk/cowl/fstree"
)

// btrfsScript fills a file system in a file, FILE, that is mounted on DIR meanwhile, from
// the archive on the standard input. The mount is that of its name space, and ends with it.
const btrfsScript = `set -eu
mount -t btrfs -o loop,noatime,commit=300 "$1" "$2"
btrfs subvolume create "$2/$3" >/dev/null
tar --xattrs "--xattrs-include=*" --numeric-owner --same-owner --same-permissions --delay-directory-restore -xf - -C "$2/$3"
umount "$2"`

// MakeBtrfs makes a btrfs in a file, which must be there and have the size of the file
// system, with a tree in a subvolume. The programs mkfs.btrfs, btrfs and tar of the host
// do it, and its kernel, by a loop device: it needs root on Linux. dir is where the folder
// comes that it is mounted on.
func MakeBtrfs(ctx context.Context, tree *fstree.Tree, file, label, uuid, subvolume, dir string) error {
	for _, name := range []string{"mkfs.btrfs", "btrfs", "losetup"} {
		if _, err := lookPath(name); err != nil {
			return fmt.Errorf("btrfs is made by the programs mkfs.btrfs, btrfs and losetup, of which this machine lacks %s: %w", name, err)
		}
	}
	if os.Geteuid() != 0 {
		return errors.New("btrfs is made by mounting it, which needs root")
	}
	g, err := New(ctx, dir, nil)
	if err != nil {
		return err
	}
	return errors.Join(g.makeBtrfs(ctx, tree, file, label, uuid, subvolume), g.Remove())
}

func (g *Guest) makeBtrfs(ctx context.Context, tree *fstree.Tree, file, label, uuid, subvolume string) error {
	if err := os.Mkdir(g.root, 0o700); err != nil {
		return err
	}
	if err := g.command(ctx, nil, io.Discard, "mkfs.btrfs", "-q", "-f", "-L", label, "-U", uuid, file); err != nil {
		return fmt.Errorf("mkfs.btrfs: %w", err)
	}
	return g.feed(ctx, tree, "sh", "-c", btrfsScript, "sh", file, g.root, subvolume)
}

// CheckBtrfs lets the host's program look for errors in a btrfs in a file.
func CheckBtrfs(ctx context.Context, file string) error {
	program, err := lookPath("btrfs")
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, program, "check", "--readonly", file).CombinedOutput(); err != nil {
		return fmt.Errorf("btrfs check: %w: %s", err, out[max(0, len(out)-1000):])
	}
	return nil
}
