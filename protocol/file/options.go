package file

import (
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

type openOptions struct {
	Filename     string `opt:"filename" help:"File name of the image"`
	AIO          string `opt:"aio" default:"threads" runtime:"on" help:"host AIO implementation (threads, native, io_uring)"`
	AIOMaxBatch  int64  `opt:"aio-max-batch" runtime:"on" help:"AIO max batch size (0 = auto handled by AIO backend, default: 0)"`
	Locking      string `opt:"locking" default:"auto" runtime:"on" help:"file locking mode (on/off/auto, default: auto)"`
	PRManager    string `opt:"pr-manager" help:"id of persistent reservation manager object (default: none)"`
	DropCache    bool   `opt:"drop-cache" default:"on" runtime:"on" help:"invalidate page cache during live migration (default: on)"`
	CheckDropped bool   `opt:"x-check-cache-dropped" default:"off" runtime:"on" help:"check that page cache was dropped on live migration (default: off)"`
}

type createOptions struct {
	Size           int64  `opt:"size" type:"size" help:"Virtual disk size"`
	NoCOW          bool   `opt:"nocow" help:"Turn off copy-on-write (valid only on btrfs)"`
	Preallocation  string `opt:"preallocation" help:"Preallocation mode (allowed values: off, falloc, full)"`
	ExtentSizeHint *int64 `opt:"extent_size_hint" type:"size" help:"Extent size hint for the image file, 0 to disable"`
}

// deviceCreateOptions are those of an existing device, which is "created" by
// checking that the image fits.
type deviceCreateOptions struct {
	Size          int64  `opt:"size" type:"size" help:"Virtual disk size"`
	Preallocation string `opt:"preallocation" help:"Preallocation mode (allowed values: off)"`
}

// check refuses what QEMU refuses. The ways of submitting I/O
// (threads, native, io_uring) differ in speed alone and are all served by
// threads here.
func (o *openOptions) check(cache driver.Cache) error {
	switch o.AIO {
	case "threads", "io_uring":
	case "native":
		if !cache.Direct {
			return driver.Errorf(driver.ErrInvalid, "aio=native was specified, but it requires cache.direct=on, which was not specified")
		}
	default:
		return badValue(o.AIO)
	}
	switch o.Locking {
	case "on", "off", "auto":
	default:
		return badValue(o.Locking)
	}
	if o.PRManager != "" {
		return driver.Errorf(driver.ErrInvalid, "no persistent reservation manager with id '%s'", o.PRManager)
	}
	return nil
}

// preallocation reads a preallocation mode of the command line.
func preallocation(s string) (driver.Prealloc, error) {
	switch p := driver.Prealloc(s); p {
	case "":
		return driver.PreallocOff, nil
	case driver.PreallocOff, driver.PreallocMetadata, driver.PreallocFalloc, driver.PreallocFull:
		return p, nil
	}
	return "", badValue(s)
}

func badValue(v string) error {
	return driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", v)
}

var (
	openSchema         = opts.SchemaOf(openOptions{})
	createSchema       = opts.SchemaOf(createOptions{})
	deviceCreateSchema = opts.SchemaOf(deviceCreateOptions{})
)
