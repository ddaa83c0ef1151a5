package imageopt

import (
	"fmt"
	"strings"

	"github.com/cowl-disk/cowl/opts"
)

// Trace reads the argument of --trace. There are no trace events: naming one brings
// the warning of the original, and writing a trace somewhere is refused. help says
// that the list of events was asked for, which is empty.
func Trace(arg string, warnf func(format string, args ...any)) (help bool, err error) {
	d := opts.Dict{}
	if err := d.ParseList(arg, "enable"); err != nil {
		return false, err
	}
	for _, key := range d.Keys() {
		switch key {
		case "enable", "help":
		case "events", "file":
			return false, fmt.Errorf("--trace %s=… is not supported: there are no trace events", key)
		default:
			return false, fmt.Errorf("Invalid parameter '%s'", key)
		}
	}
	switch name := d.String("enable"); {
	case name == "help" || name == "?":
		return true, nil
	case name != "" && !strings.Contains(name, "*"):
		warnf("trace event '%s' does not exist", name)
	}
	return false, nil
}
