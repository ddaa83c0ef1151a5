package qemuimg

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/ops"
)

func checksumCommand(c *call) *program.Command {
	sum, _ := newDigest("sha256")
	return &program.Command{
		Name: "checksum", Summary: "Print a checksum of the content of the disk",
		Usage: []string{"[-f FMT | --image-opts] [-a ALGORITHM] [-T CACHE] [-U] [-p] [-q]", "[--object OBJDEF] FILENAME"},
		About: "The checksum is that of the disk as a guest sees it: the same for every format,\nand for a raw image that of the file.",
		Options: []program.Option{c.helpOption(), c.formatOption(), c.imageOptsOption(),
			program.Func("-a, --algorithm ALGORITHM", "sha256 (default), sha384 or sha512", func(arg string) (err error) {
				sum, err = newDigest(arg)
				return err
			}).Offering(digestNames...),
			c.cacheOption("-T, --cache CACHE", "the cache mode for reading (default: writeback)"),
			c.forceShareOption(), c.progressOption(), c.quietOption(), c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"disk.qcow2"},
		Run:      func(context.Context, []string) int { return c.checksum(sum) },
	}
}

// digestNames are the algorithms of newDigest.
var digestNames = []string{"sha256", "sha384", "sha512"}

// digest is a checksum that is being computed.
type digest struct {
	name string
	hash.Hash
}

func newDigest(name string) (*digest, error) {
	switch name {
	case "sha256":
		return &digest{name, sha256.New()}, nil
	case "sha384":
		return &digest{name, sha512.New384()}, nil
	case "sha512":
		return &digest{name, sha512.New()}, nil
	}
	return nil, fmt.Errorf("Unknown checksum algorithm '%s': sha256, sha384 and sha512 are supported", name)
}

// String is the result, "sha256:…".
func (d *digest) String() string { return d.name + ":" + hex.EncodeToString(d.Sum(nil)) }

func (c *call) checksum(sum *digest) int {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid source cache option: %s", c.cache)
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Use: block.Use{Sequential: true}, Sharing: block.Sharing{Force: c.forceShare}, Cache: cache})
	if err != nil {
		return c.fail(err)
	}
	defer c.close(img)
	progress, stop := c.startProgress(1)
	err = ops.Checksum(c.ctx, img, sum, progress.Report)
	stop(err != nil)
	if err != nil {
		return c.fail(err)
	}
	_, err = fmt.Fprintln(c.Stdout, sum)
	return c.print(err)
}
