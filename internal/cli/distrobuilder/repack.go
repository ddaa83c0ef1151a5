package distrobuilder

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
)

func repackCommand(c *call) *program.Command {
	m := newImaging(c)
	return &program.Command{
		Name: "repack-incus", Summary: "Pack an Incus image again, in another form or with another compression",
		Usage:    []string{"[--type split|unified] [--compression METHOD[-LEVEL]] [--no-verify] [-p[=json]] [--output human|json]", globalUsage, "FILE [ROOTFS] TARGET_DIR"},
		About:    "Makes a split image of a unified one or the reverse. What the image says and holds stays as it is;\nthe disk of a virtual machine is not compressed again. The image is not changed.",
		Operands: []program.Operand{{Name: "FILE", Help: "a unified image, or the archive with the metadata of a split one"}, {Name: "ROOTFS", Help: "the squashfs or the disk of a split image"}, {Name: "TARGET_DIR", Help: "where the files come"}},
		Examples: []string{"--type unified incus.tar.xz rootfs.squashfs out", "--compression zstd image.tar.gz out"},
		Options: append(c.common(), m.typeOption(), m.compressionOption(),
			program.Flag(&m.noVerify, "--no-verify", "do not read back and compare what was written"), m.progressOption(), m.outputOption()),
		Rules: append([]program.Rule{count(2, 3)}, m.rules()...),
		Run: func(ctx context.Context, operands []string) int {
			c.ctx = ctx
			return c.finish(m.repack(operands))
		},
	}
}

func (m *imaging) repack(operands []string) error {
	files, target := operands[:len(operands)-1], operands[len(operands)-1]
	var err error
	if m.compression, err = incus.ParseCompression(m.word); err != nil {
		return err
	}
	if err := m.temporary(); err != nil {
		return err
	}
	image, err := incus.OpenImage(files, fstree.Options{TempDir: m.cacheDir})
	if err != nil {
		return err
	}
	defer image.Close()
	m.vm = image.VM
	if err := m.check(); err != nil {
		return err
	}
	result, err := m.write(incus.PackOptions{Dir: target, Unified: m.kind == "unified", Compression: m.compression, NoVerify: m.noVerify}, image.Repack)
	if err != nil {
		return err
	}
	return m.print(result)
}

func indexCommand(c *call) *program.Command {
	prefix, merge := "", ""
	return &program.Command{
		Name: "incus-index", Summary: "Print an Incus image's entry for a server of images (simplestreams)",
		Usage:    []string{"[--prefix PATH] [--merge INDEX]", globalUsage, "FILE [ROOTFS]"},
		About:    "Prints the file streams/v1/images.json of a server that offers the image.",
		Operands: []program.Operand{{Name: "FILE", Help: "a unified image, or the archive with the metadata of a split one"}, {Name: "ROOTFS", Help: "the squashfs or the disk of a split image"}},
		Examples: []string{"--prefix images/tiny/ incus.tar.xz rootfs.squashfs", "--merge images.json incus.tar.xz disk.qcow2"},
		Options: append(c.common(),
			program.Text(&prefix, "--prefix PATH", "what comes before the names of the files in their paths on the server"),
			program.Text(&merge, "--merge INDEX", "add the image to those of an index that is there; it is not changed")),
		Rules: []program.Rule{count(1, 2)},
		Run: func(ctx context.Context, operands []string) int {
			c.ctx = ctx
			return c.finish(c.index(operands, prefix, merge))
		},
	}
}

// maxIndex is how long an index that is read may be, in bytes.
const maxIndex = 64 << 20

func (c *call) index(files []string, prefix, merge string) error {
	if err := c.temporary(); err != nil {
		return err
	}
	index := &incus.Index{}
	if merge != "" {
		info, err := os.Stat(merge)
		if err != nil {
			return err
		}
		if info.Size() > maxIndex {
			return fmt.Errorf("%s has %d bytes, more than %d", merge, info.Size(), maxIndex)
		}
		text, err := os.ReadFile(merge)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(text, index); err != nil {
			return fmt.Errorf("%s: %w", merge, err)
		}
	}
	added, err := incus.NewIndex(files, prefix, fstree.Options{TempDir: c.cacheDir})
	if err != nil {
		return err
	}
	if merge == "" {
		return render.JSON(c.Stdout, added)
	}
	if err := index.Add(added); err != nil {
		return err
	}
	return render.JSON(c.Stdout, index)
}
