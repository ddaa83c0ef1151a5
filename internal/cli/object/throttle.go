package object

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// maxThrottle is the largest limit.
const maxThrottle = 1_000_000_000_000_000

// throttleBuckets are the limits of a group, by the names of their parameters.
var throttleBuckets = []string{"bps-total", "bps-read", "bps-write", "iops-total", "iops-read", "iops-write"}

// throttleParams are the parameters of a group: "limits", below which the limits are, or
// each of them with the prefix "x-", as long as that was experimental.
func throttleParams() []param {
	list := []param{{name: "limits", kind: "ThrottleLimits", nested: true}}
	for _, name := range throttleBuckets {
		for _, suffix := range []string{"", "-max", "-max-length"} {
			list = append(list, param{name: "x-" + name + suffix, kind: "int"})
		}
	}
	list = append(list, param{name: "x-iops-size", kind: "int"})
	// QEMU sorts the lines of its help.
	slices.SortFunc(list, func(a, b param) int { return strings.Compare(a.name+"=", b.name+"=") })
	return list
}

// throttleGroup reads the limits of a group.
func throttleGroup(_ *Set, def definition) (driver.Object, error) {
	d := def.params
	if _, ok := d["limits"]; ok {
		return nil, errors.New("Invalid parameter type for 'limits', expected: object")
	}
	g := &driver.ThrottleGroup{ID: def.id}
	known := map[string]*int64{"iops-size": &g.IOPSSize}
	limits := []*driver.ThrottleLimit{&g.BPS, &g.BPSRead, &g.BPSWrite, &g.IOPS, &g.IOPSRead, &g.IOPSWrite}
	for i, name := range throttleBuckets {
		known[name], known[name+"-max"], known[name+"-max-length"] = &limits[i].Average, &limits[i].Max, &limits[i].Burst
	}
	given := map[string]int64{}
	for _, key := range d.Keys() {
		n, err := integer(d, key, def.fromJSON)
		if err != nil {
			return nil, err
		}
		given[key] = n
	}
	// What is below "limits" wins, as it is set after the others.
	for _, prefix := range []string{"x-", "limits."} {
		for _, key := range d.Keys() {
			name, ok := strings.CutPrefix(key, prefix)
			if !ok {
				continue
			}
			to := known[name]
			if to == nil {
				return nil, fmt.Errorf("Parameter '%s' is unexpected", key)
			}
			n := given[key]
			isLength := strings.HasSuffix(name, "-max-length")
			switch {
			case n < 0 && prefix == "x-":
				return nil, errors.New("Property values cannot be negative")
			case isLength && (n < 0 || n > math.MaxUint32):
				return nil, fmt.Errorf("%s value must be in the range [0, %d]", key, uint32(math.MaxUint32))
			case isLength && n == 0:
				return nil, errors.New("the burst length cannot be 0")
			}
			*to = n
		}
	}
	return g, checkThrottle(g)
}

// integer reads a number. In JSON it must be one.
func integer(d opts.Dict, key string, fromJSON bool) (int64, error) {
	text := opts.Text(d[key])
	if _, isText := d[key].(string); isText && fromJSON {
		return 0, fmt.Errorf("Invalid parameter type for '%s', expected: integer", key)
	}
	n, err := strconv.ParseInt(text, 0, 64)
	if err != nil {
		return 0, fmt.Errorf("Parameter '%s' expects integer", key)
	}
	return n, nil
}

// checkThrottle finds limits that do not go together.
func checkThrottle(g *driver.ThrottleGroup) error {
	both := func(total, read, write int64) bool { return total != 0 && (read != 0 || write != 0) }
	if both(g.BPS.Average, g.BPSRead.Average, g.BPSWrite.Average) || both(g.IOPS.Average, g.IOPSRead.Average, g.IOPSWrite.Average) ||
		both(g.BPS.Max, g.BPSRead.Max, g.BPSWrite.Max) || both(g.IOPS.Max, g.IOPSRead.Max, g.IOPSWrite.Max) {
		return errors.New("bps/iops/max total values and read/write values cannot be used at the same time")
	}
	if g.IOPSSize != 0 && g.IOPS.Average == 0 && g.IOPSRead.Average == 0 && g.IOPSWrite.Average == 0 {
		return errors.New("iops size requires an iops value to be set")
	}
	for _, l := range []driver.ThrottleLimit{g.BPS, g.BPSRead, g.BPSWrite, g.IOPS, g.IOPSRead, g.IOPSWrite} {
		burst := max(l.Burst, 1)
		switch {
		case l.Average < 0 || l.Max < 0 || l.Average > maxThrottle || l.Max > maxThrottle:
			return fmt.Errorf("bps/iops/max values must be within [0, %d]", int64(maxThrottle))
		case burst > 1 && l.Max == 0:
			return errors.New("burst length set without burst rate")
		case l.Max != 0 && burst > maxThrottle/l.Max:
			return errors.New("burst length too high for this burst rate")
		case l.Max != 0 && l.Average == 0:
			return errors.New("bps_max/iops_max require corresponding bps/iops values")
		case l.Max != 0 && l.Max < l.Average:
			return errors.New("bps_max/iops_max cannot be lower than bps/iops")
		}
	}
	return nil
}
