package qemuio

import (
	"syscall"

	"github.com/cowl-disk/cowl/internal/cli/words"
)

// zoneCommands are about zoned block devices, which no driver here serves: QEMU refuses
// them on all other storage in the same words.
func zoneCommands() []*command {
	zoned := func(name, alias, args, about, what string, low, high int) *command {
		return &command{name: name, alias: alias, args: args, about: about, min: low, max: high, run: func(s *session, _ *command, args []string) error {
			for _, a := range args {
				if _, err := s.number(a); err != nil {
					return err
				}
			}
			return s.failf("%s failed: %s", what, words.Strerror(syscall.ENOTSUP))
		}}
	}
	return []*command{
		zoned("zone_report", "zrp", "offset number", "report zone information", "zone report", 2, 2),
		zoned("zone_open", "zo", "offset len", "explicit open a range of zones in zone block device", "zone open", 2, 2),
		zoned("zone_close", "zc", "offset len", "close a range of zones in zone block device", "zone close", 2, 2),
		zoned("zone_finish", "zf", "offset len", "finish a range of zones in zone block device", "zone finish", 2, 2),
		zoned("zone_reset", "zrs", "offset len", "reset a zone write pointer in zone block device", "zone reset", 2, 2),
		zoned("zone_append", "zap", "offset len [len..]", "append write a number of bytes at a specified offset", "zone append", 3, 4),
	}
}
