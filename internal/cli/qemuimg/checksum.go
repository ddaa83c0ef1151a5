package qemuimg

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/ops"
)

const checksumAlgorithm = 1

func checksumCommand() *command {
	return &command{
		name: "checksum", summary: "Print a checksum of the content of the disk", run: runChecksum,
		usage: []string{"[-f FMT | --image-opts] [-a ALGORITHM] [-T CACHE] [-U] [-p]", "[--object OBJDEF] FILENAME"},
		about: "The checksum is that of the disk as a guest sees it: the same for every format,\nand for a raw image that of the file.",
		options: []option{helpOption(), formatOption(), imageOptsOption(),
			{id: checksumAlgorithm, long: "algorithm", short: 'a', value: "ALGORITHM", help: "sha256 (default), sha384 or sha512"},
			{id: optCache, long: "cache", short: 'T', value: "CACHE", help: "the cache mode for reading (default: writeback)"},
			forceShareOption(), progressOption(), quietOption(), objectOption(),
		},
		operands: []operand{{"FILENAME", "the image"}},
		examples: []string{"disk.qcow2"},
	}
}

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

func runChecksum(c *call, args []string) int {
	sum, err := newDigest("sha256")
	c.cache = cacheWriteback
	code, ok := c.parse(args, func(id int, arg string) error {
		sum, err = newDigest(arg)
		return err
	})
	if !ok {
		return code
	}
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid source cache option: %s", c.cache)
	}
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Sequential: true, ForceShare: c.forceShare, Cache: cache})
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
