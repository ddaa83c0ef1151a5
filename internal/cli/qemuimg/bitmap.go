package qemuimg

import (
	"context"
	"errors"
	"slices"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/program"
	"github.com/cowl-disk/cowl/internal/cli/words"
	"github.com/cowl-disk/cowl/ops"
)

// The modifications of a bitmap, as messages name them.
const (
	bitmapAdd       = "add"
	bitmapRemove    = "remove"
	bitmapRemoveAll = "remove-all"
	bitmapClear     = "clear"
	bitmapEnable    = "enable"
	bitmapDisable   = "disable"
	bitmapMerge     = "merge"
)

func bitmapCommand(c *call) *program.Command {
	w := &bitmapWork{call: c}
	// action declares an option that asks for a modification.
	action := func(verb, spelling, help string) program.Option {
		return program.Func(spelling, help, func(arg string) error {
			w.actions = append(w.actions, bitmapAction{verb, arg})
			return nil
		})
	}
	return &program.Command{
		Name: "bitmap", Summary: "Perform modifications of the persistent bitmap in the image",
		Usage: []string{"(--merge SOURCE | --add | --remove | --remove-all | --clear |",
			"--enable | --disable)... [-b SRC_FILENAME [-F SRC_FMT]] [-g SIZE]",
			"[-f FMT | --image-opts] [--object OBJDEF] FILENAME [BITMAP]"},
		About: "A persistent dirty bitmap records which parts of the disk were written. Several\nmodifications are made in the order in which they are given; the first that fails\nends the command, and those before it stay.",
		Options: []program.Option{c.helpOption(), c.formatOption(), c.imageOptsOption(),
			action(bitmapAdd, "--add", "add BITMAP, which records writes from then on"),
			program.Func("-g, --granularity SIZE", "with --add: the size of the pieces of the disk that BITMAP tells apart, a\npower of two from 512 to 2G (default: the cluster size, from 4k to 64k)", w.setGranularity),
			action(bitmapRemove, "--remove", "remove BITMAP, whatever its state"),
			action(bitmapRemoveAll, "--remove-all", "remove all bitmaps, whatever their state; BITMAP need not be given").InFull(),
			action(bitmapClear, "--clear", "forget what BITMAP has recorded"),
			action(bitmapEnable, "--enable", "let BITMAP record writes"),
			action(bitmapDisable, "--disable", "let BITMAP stay as it is"),
			action(bitmapMerge, "--merge SOURCE", "add to BITMAP what the bitmap SOURCE has recorded"),
			program.Given(&w.source, "-b, --source-file SRC_FILENAME", "with --merge: SOURCE is in this image"),
			program.Given(&w.sourceFormat, "-F, --source-format SRC_FMT", "the format of SRC_FILENAME; without it the format is probed").Offering(c.formats()...),
			c.objectOption(),
		},
		Operands: []program.Operand{{Name: "FILENAME", Help: "the image"}, {Name: "BITMAP", Help: "the name of the bitmap"}},
		Examples: []string{"--add disk.qcow2 since-monday", "--merge since-monday --clear disk.qcow2 all", "--remove-all disk.qcow2"},
		Rules:    w.rules(),
		Run:      w.run,
	}
}

// bitmapAction is one modification.
type bitmapAction struct {
	verb   string
	source string // of a merge
}

// bitmapWork is one run of bitmap.
type bitmapWork struct {
	*call
	actions      []bitmapAction
	granularity  int64
	given        bool // a granularity other than the default
	source       *string
	sourceFormat *string
}

func (w *bitmapWork) setGranularity(arg string) (err error) {
	w.granularity, err = size("granularity", arg)
	w.given = w.granularity != 0
	return err
}

// has tells whether one of the modifications is asked for.
func (w *bitmapWork) has(verbs ...string) bool {
	return slices.ContainsFunc(w.actions, func(a bitmapAction) bool { return slices.Contains(verbs, a.verb) })
}

// rules say what does not go together.
func (w *bitmapWork) rules() []program.Rule {
	// All bitmaps need no name.
	named := func() bool {
		return w.has(bitmapAdd, bitmapRemove, bitmapClear, bitmapEnable, bitmapDisable, bitmapMerge)
	}
	return []program.Rule{
		program.Never(func() bool { return len(w.actions) == 0 }, "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge"),
		program.Never(func() bool { return w.given && !w.has(bitmapAdd) }, "granularity only supported with --add"),
		program.Never(func() bool { return w.sourceFormat != nil && w.source == nil }, "-F only supported with -b"),
		program.Never(func() bool { return w.source != nil && !w.has(bitmapMerge) }, "Merge bitmap source file only supported with --merge"),
		{Broken: func(operands []string) bool { return named() && len(operands) != 2 }, Says: "Expecting filename and bitmap name"},
		{Broken: func(operands []string) bool { return !named() && len(operands) != 1 }, Says: "Expecting filename"},
	}
}

func (w *bitmapWork) run(_ context.Context, operands []string) (code int) {
	c := w.call
	// What the disk holds does not matter, nor where.
	img, err := c.open(c.image(operands[0]), block.OpenOptions{Write: true, Chain: block.ChainUse{NoBacking: true}})
	if err != nil {
		return c.fail(err)
	}
	defer func() {
		if err := c.close(img); err != nil && code == 0 {
			code = c.errorf("Error while closing the image: %s", bitmapReason(err))
		}
	}()
	src := img
	if w.source != nil {
		from := image{name: *w.source}
		if w.sourceFormat != nil {
			from.format = *w.sourceFormat
		}
		if src, err = c.open(from, block.OpenOptions{Chain: block.ChainUse{NoBacking: true}}); err != nil {
			return c.fail(err)
		}
		defer c.close(src)
	}
	name := ""
	if len(operands) > 1 {
		name = operands[1]
	}
	for _, a := range w.actions {
		if err := c.changeBitmap(img, src, name, w.granularity, a); err != nil {
			return c.errorf("Operation %s on bitmap %s failed: %s", a.verb, name, bitmapReason(err))
		}
	}
	return 0
}

// changeBitmap makes one modification.
func (c *call) changeBitmap(img, src *block.Image, name string, granularity int64, a bitmapAction) error {
	switch a.verb {
	case bitmapAdd:
		return img.Bitmaps().Add(c.ctx, driver.BitmapSpec{Name: name, Granularity: granularity})
	case bitmapRemoveAll:
		return ops.RemoveBitmaps(c.ctx, img)
	}
	// Other images than those that can have bitmaps have none.
	if _, ok, err := img.Bitmaps().List(c.ctx); err == nil && !ok {
		return driver.Errorf(driver.ErrNoBitmap, "Dirty bitmap '%s' not found", name)
	}
	switch a.verb {
	case bitmapRemove:
		return img.Bitmaps().Remove(c.ctx, name)
	case bitmapClear:
		return img.Bitmaps().Clear(c.ctx, name)
	case bitmapMerge:
		return ops.MergeBitmap(c.ctx, img, name, src, a.source)
	default:
		return img.Bitmaps().Enable(c.ctx, name, a.verb == bitmapEnable)
	}
}

// bitmapReason says why a bitmap could not be changed, without what the block layer
// adds.
func bitmapReason(err error) string {
	var io *block.IOError
	if errors.As(err, &io) {
		err = io.Err
	}
	return words.Text(err)
}
