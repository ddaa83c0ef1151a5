package block

import (
	"errors"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// common holds the options that every node has.
type common struct {
	detect detectZeroes
}

func takeCommon(d opts.Dict, spec *nodeSpec) (common, error) {
	var c common
	flag := func(key string, set func(bool)) error {
		text, ok := d.TakeText(key)
		if !ok {
			return nil
		}
		b, err := opts.ParseBool(text)
		if err != nil {
			return &opts.ValueError{Name: key, Want: "'on' or 'off'"}
		}
		set(b)
		return nil
	}
	d.TakeText("node-name")
	err := errors.Join(
		flag("read-only", func(b bool) {
			if b {
				spec.access.Write = false
				spec.access.Perm &^= driver.PermWrite | driver.PermResize
			}
		}),
		flag("auto-read-only", func(bool) {}),
		flag("force-share", func(b bool) { spec.access.NoLock = spec.access.NoLock || b }),
		flag("cache.direct", func(b bool) { spec.cache.Direct = b }),
		flag("cache.no-flush", func(b bool) { spec.cache.NoFlush = b }),
		flag("cache.writeback", func(b bool) { spec.cache.WriteThrough = !b }),
	)
	if err != nil {
		return c, err
	}
	switch v, _ := d.TakeText("discard"); v {
	case "":
	case "unmap", "on":
		spec.unmap = true
	case "ignore", "off":
		spec.unmap = false
	default:
		return c, driver.Errorf(driver.ErrInvalid, "invalid discard option")
	}
	switch v, _ := d.TakeText("detect-zeroes"); v {
	case "", "off":
	case "on":
		c.detect = detectOn
	case "unmap":
		if !spec.unmap {
			return c, driver.Errorf(driver.ErrInvalid, "setting detect-zeroes to unmap is not allowed without setting discard operation to unmap")
		}
		c.detect = detectUnmap
	default:
		return c, driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", v)
	}
	return c, nil
}
