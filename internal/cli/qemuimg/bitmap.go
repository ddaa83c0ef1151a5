package qemuimg

import (
	"errors"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/internal/cli/render"
	"github.com/cowl-disk/cowl/ops"
)

const (
	bitmapAdd = iota + 1
	bitmapRemove
	bitmapRemoveAll
	bitmapClear
	bitmapEnable
	bitmapDisable
	bitmapMerge
	bitmapGranularity
	bitmapSource
	bitmapSourceFormat
)

func bitmapCommand() *command {
	return &command{
		name: "bitmap", summary: "Perform modifications of the persistent bitmap in the image", run: runBitmap,
		usage: []string{"(--merge SOURCE | --add | --remove | --remove-all | --clear |",
			"--enable | --disable)... [-b SRC_FILENAME [-F SRC_FMT]] [-g SIZE]",
			"[-f FMT | --image-opts] [--object OBJDEF] FILENAME [BITMAP]"},
		about: "A persistent dirty bitmap records which parts of the disk were written. Several\nmodifications are made in the order in which they are given; the first that fails\nends the command, and those before it stay.",
		options: []option{helpOption(), formatOption(), imageOptsOption(),
			{id: bitmapAdd, long: "add", help: "add BITMAP, which records writes from then on"},
			{id: bitmapGranularity, long: "granularity", short: 'g', value: "SIZE", help: "with --add: the size of the pieces of the disk that BITMAP tells apart, a\npower of two from 512 to 2G (default: the cluster size, from 4k to 64k)"},
			{id: bitmapRemove, long: "remove", help: "remove BITMAP, whatever its state"},
			{id: bitmapRemoveAll, long: "remove-all", help: "remove all bitmaps, whatever their state; BITMAP need not be given", exact: true},
			{id: bitmapClear, long: "clear", help: "forget what BITMAP has recorded"},
			{id: bitmapEnable, long: "enable", help: "let BITMAP record writes"},
			{id: bitmapDisable, long: "disable", help: "let BITMAP stay as it is"},
			{id: bitmapMerge, long: "merge", value: "SOURCE", help: "add to BITMAP what the bitmap SOURCE has recorded"},
			{id: bitmapSource, long: "source-file", short: 'b', value: "SRC_FILENAME", help: "with --merge: SOURCE is in this image"},
			{id: bitmapSourceFormat, long: "source-format", short: 'F', value: "SRC_FMT", help: "the format of SRC_FILENAME; without it the format is probed"},
			objectOption(),
		},
		operands: []operand{{"FILENAME", "the image"}, {"BITMAP", "the name of the bitmap"}},
		examples: []string{"--add disk.qcow2 since-monday", "--merge since-monday --clear disk.qcow2 all", "--remove-all disk.qcow2"},
	}
}

// bitmapAction is one modification.
type bitmapAction struct {
	id     int
	source string // of a merge
}

// bitmapWork is what the command line asks for.
type bitmapWork struct {
	actions         []bitmapAction
	granularity     int64
	given           bool // a granularity other than the default
	source          *string
	sourceFormat    string
	hasSourceFormat bool
}

func (w *bitmapWork) has(id int) bool {
	for _, a := range w.actions {
		if a.id == id {
			return true
		}
	}
	return false
}

func (w *bitmapWork) set(id int, arg string) (err error) {
	switch id {
	case bitmapGranularity:
		w.granularity, err = size("granularity", arg)
		w.given = w.granularity != 0
	case bitmapSource:
		w.source = &arg
	case bitmapSourceFormat:
		w.sourceFormat, w.hasSourceFormat = arg, true
	default:
		w.actions = append(w.actions, bitmapAction{id, arg})
	}
	return err
}

// check finds what does not go together.
func (w *bitmapWork) check(operands []string) error {
	names := 2
	if !w.has(bitmapAdd) && !w.has(bitmapRemove) && !w.has(bitmapClear) && !w.has(bitmapEnable) && !w.has(bitmapDisable) && !w.has(bitmapMerge) {
		names = 1
	}
	switch {
	case len(w.actions) == 0:
		return errors.New("Need at least one of --add, --remove, --clear, --enable, --disable, or --merge")
	case w.given && !w.has(bitmapAdd):
		return errors.New("granularity only supported with --add")
	case w.hasSourceFormat && w.source == nil:
		return errors.New("-F only supported with -b")
	case w.source != nil && !w.has(bitmapMerge):
		return errors.New("Merge bitmap source file only supported with --merge")
	case names == 2 && len(operands) != 2:
		return errors.New("Expecting filename and bitmap name")
	case names == 1 && len(operands) != 1:
		return errors.New("Expecting filename")
	}
	return nil
}

func runBitmap(c *call, args []string) (code int) {
	w := &bitmapWork{}
	code, ok := c.parse(args, w.set)
	if !ok {
		return code
	}
	if err := w.check(c.operands); err != nil {
		return c.fail(err)
	}
	// What the disk holds does not matter, nor where.
	img, err := c.open(c.image(c.operands[0]), block.OpenOptions{Write: true, NoBacking: true})
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
		if src, err = c.open(image{name: *w.source, format: w.sourceFormat}, block.OpenOptions{NoBacking: true}); err != nil {
			return c.fail(err)
		}
		defer c.close(src)
	}
	name := ""
	if len(c.operands) > 1 {
		name = c.operands[1]
	}
	for _, a := range w.actions {
		if op, err := c.changeBitmap(img, src, name, w.granularity, a); err != nil {
			return c.errorf("Operation %s on bitmap %s failed: %s", op, name, bitmapReason(err))
		}
	}
	return 0
}

// changeBitmap makes one modification and returns what it is called.
func (c *call) changeBitmap(img, src *block.Image, name string, granularity int64, a bitmapAction) (op string, err error) {
	switch a.id {
	case bitmapAdd:
		return "add", img.AddBitmap(c.ctx, driver.BitmapSpec{Name: name, Granularity: granularity})
	case bitmapRemoveAll:
		return "remove-all", ops.RemoveBitmaps(c.ctx, img)
	}
	// Other images than those that can have bitmaps have none.
	if _, ok, err := img.Bitmaps(c.ctx); err == nil && !ok {
		err = driver.Errorf(driver.ErrNoBitmap, "Dirty bitmap '%s' not found", name)
		return bitmapVerb(a.id), err
	}
	switch a.id {
	case bitmapRemove:
		err = img.RemoveBitmap(c.ctx, name)
	case bitmapClear:
		err = img.ClearBitmap(c.ctx, name)
	case bitmapEnable, bitmapDisable:
		err = img.EnableBitmap(c.ctx, name, a.id == bitmapEnable)
	case bitmapMerge:
		err = ops.MergeBitmap(c.ctx, img, name, src, a.source)
	}
	return bitmapVerb(a.id), err
}

func bitmapVerb(id int) string {
	return map[int]string{bitmapRemove: "remove", bitmapClear: "clear", bitmapEnable: "enable", bitmapDisable: "disable", bitmapMerge: "merge"}[id]
}

// bitmapReason says why a bitmap could not be changed, without what the block layer
// adds.
func bitmapReason(err error) string {
	var io *block.IOError
	if errors.As(err, &io) {
		err = io.Err
	}
	return render.Error(err)
}
