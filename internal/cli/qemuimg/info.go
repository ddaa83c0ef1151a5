package qemuimg

import (
	"bytes"
	"context"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
	"github.com/cowl-disk/cowl/qapi"
)

func infoCommand(c *call) *program.Command {
	chain, limits := false, false
	return &program.Command{
		Name: "info", Summary: "Display information about image",
		Usage: []string{"[-f FMT | --image-opts] [--backing-chain] [--limits] [-U] [-t CACHE]",
			"[--object OBJDEF] [--output human|json] FILENAME"},
		Options: []program.Option{c.helpOption(), c.formatOption(), c.imageOptsOption(),
			program.Flag(&chain, "-b, --backing-chain", "describe the backing files as well, one after the other"),
			c.forceShareOption(), c.outputOption(), c.objectOption(),
			c.cacheOption("-t, --cache CACHE", "the cache mode for reading (default: writeback)"),
			program.Flag(&limits, "--limits", "show what requests to the image and to the files below it are bound to"),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}},
		Examples: []string{"disk.qcow2", "--backing-chain --output json overlay.qcow2"},
		Run:      func(context.Context, []string) int { return c.info(chain, limits) },
	}
}

func (c *call) info(chain, limits bool) int {
	if len(c.operands) != 1 {
		return c.usage("Expecting one image file name")
	}
	cache, ok := cacheMode(c.cache)
	if !ok {
		return c.errorf("Invalid cache option: %s", c.cache)
	}
	list, err := c.collectInfo(c.image(c.operands[0]), chain, ops.InfoOptions{Limits: limits}, block.OpenOptions{Chain: block.ChainUse{NoBacking: true}, Use: block.Use{NoIO: true}, Sharing: block.Sharing{Force: c.forceShare}, Cache: cache})
	if err != nil {
		return c.fail(err)
	}
	switch {
	case !c.json:
		var text bytes.Buffer // one write, not one a line
		if err = render.Info(&text, list); err == nil {
			_, err = c.Stdout.Write(text.Bytes())
		}
	case chain:
		err = render.JSON(c.Stdout, renderNames(list))
	default:
		err = render.JSON(c.Stdout, renderNames(list)[0])
	}
	return c.print(err)
}

// collectInfo describes an image, and its chain if that is wanted.
func (c *call) collectInfo(im image, chain bool, tell ops.InfoOptions, o block.OpenOptions) ([]*qapi.ImageInfo, error) {
	if !chain {
		img, err := c.open(im, o)
		if err != nil {
			return nil, err
		}
		defer c.close(img)
		info, err := ops.Info(c.ctx, img, tell)
		return []*qapi.ImageInfo{info}, err
	}
	if im.imageOpts && im.format != "" {
		return nil, errFormatAndOpts
	}
	src, err := im.source()
	if err != nil {
		return nil, openError(im.name, err)
	}
	name := im.name
	return ops.InfoChain(c.ctx, src, tell, func(ctx context.Context, src block.Source) (*block.Image, error) {
		if src.Filename != "" {
			name = src.Filename
		}
		return c.openSource(ctx, src, name, o)
	})
}

// renderNames gives json: names the layout in which they are printed.
func renderNames(list []*qapi.ImageInfo) []*qapi.ImageInfo {
	for _, info := range list {
		info.Filename = render.Filename(info.Filename)
		for i := range info.Children {
			renderNames([]*qapi.ImageInfo{&info.Children[i].Info})
		}
	}
	return list
}
