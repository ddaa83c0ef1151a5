package blkdebug

import (
	"bufio"
	"bytes"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// sectorSize is the unit of the option sector.
const sectorSize = 512

// maxConfig bounds a configuration file.
const maxConfig = 1 << 20

// events are the names that rules may have, as QEMU's schema (BlkdebugEvent) lists them.
var events = sync.OnceValue(func() []string {
	return strings.Fields(`
l1_update l1_grow_alloc_table l1_grow_write_table l1_grow_activate_table l2_load l2_update
l2_update_compressed l2_alloc_cow_read l2_alloc_write read_aio read_backing_aio read_compressed
write_aio write_compressed vmstate_load vmstate_save cow_read cow_write reftable_load
reftable_grow reftable_update refblock_load refblock_update refblock_update_part refblock_alloc
refblock_alloc_hookup refblock_alloc_write refblock_alloc_write_blocks
refblock_alloc_write_table refblock_alloc_switch_table cluster_alloc cluster_alloc_bytes
cluster_free flush_to_os flush_to_disk pwritev_rmw_head pwritev_rmw_after_head
pwritev_rmw_tail pwritev_rmw_after_tail pwritev pwritev_zero pwritev_done
empty_image_prepare l1_shrink_write_table l1_shrink_free_l2_clusters cor_write
cluster_alloc_space none`)
})

// ioType is a set of kinds of request.
type ioType uint8

const (
	ioRead ioType = 1 << iota
	ioWrite
	ioWriteZeroes
	ioDiscard
	ioFlush
	ioBlockStatus
)

var ioTypes = map[string]ioType{"read": ioRead, "write": ioWrite, "write-zeroes": ioWriteZeroes,
	"discard": ioDiscard, "flush": ioFlush, "block-status": ioBlockStatus}

// rule is a rule of either kind.
type rule struct {
	event string
	state int64 // 0: in any
	// set: the rule changes the state to newState.
	set      bool
	newState int64
	// Else it injects an error.
	types  ioType
	errno  syscall.Errno
	offset int64 // of a byte that the request covers, -1: anywhere
	once   bool
}

// parseRule reads the keys of a rule of the group "inject-error" or "set-state".
func parseRule(group string, d opts.Dict) (*rule, error) {
	r := &rule{set: group == "set-state", types: ioRead | ioWrite | ioWriteZeroes | ioDiscard | ioFlush, errno: syscall.EIO, offset: -1}
	for _, k := range d.Keys() {
		if err := r.key(k, d.String(k)); err != nil {
			return nil, err
		}
	}
	if r.event == "" {
		return nil, driver.Errorf(driver.ErrInvalid, "missing event name for rule")
	}
	return r, nil
}

func (r *rule) key(k, v string) (err error) {
	unknown := driver.Errorf(driver.ErrInvalid, "invalid parameter '%s'", k)
	switch {
	case k == "event":
		if !slices.Contains(events(), v) {
			return driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", v)
		}
		r.event = v
	case k == "state":
		r.state, err = number(k, v)
	case r.set && k == "new_state":
		r.newState, err = number(k, v)
	case r.set:
		return unknown
	case k == "iotype":
		t, ok := ioTypes[v]
		if !ok {
			return driver.Errorf(driver.ErrInvalid, "invalid parameter value: %s", v)
		}
		r.types = t
	case k == "errno":
		var n int64
		n, err = number(k, v)
		r.errno = syscall.Errno(n)
	case k == "sector":
		if v == "-1" {
			return nil
		}
		var n int64
		n, err = number(k, v)
		r.offset = n * sectorSize
	case k == "once":
		r.once, err = boolean(k, v)
	case k == "immediately":
		// Whether a request fails at once or in its turn is the same here.
		_, err = boolean(k, v)
	default:
		return unknown
	}
	return err
}

func number(k, v string) (int64, error) {
	n, err := strconv.ParseInt(v, 0, 54)
	if err != nil || n < 0 {
		return 0, &opts.ValueError{Name: k, Want: "a number"}
	}
	return n, nil
}

func boolean(k, v string) (bool, error) {
	b, err := opts.ParseBool(v)
	if err != nil {
		return false, &opts.ValueError{Name: k, Want: "'on' or 'off'"}
	}
	return b, nil
}

// takeRules removes the rules that options hold ("inject-error.0.event") from d.
func takeRules(d opts.Dict) ([]*rule, error) {
	var rules []*rule
	for _, group := range []string{"inject-error", "set-state"} {
		for i := 0; ; i++ {
			one := d.Sub(group + "." + strconv.Itoa(i))
			if len(one) == 0 {
				break
			}
			r, err := parseRule(group, one)
			if err != nil {
				return nil, err
			}
			rules = append(rules, r)
		}
	}
	return rules, nil
}

// readConfig reads the rules of a configuration file.
func readConfig(name string) ([]*rule, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "could not read blkdebug config file: %w", errnoOf(err))
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err != nil {
		return nil, driver.Errorf(driver.ErrInvalid, "could not read blkdebug config file: %w", errnoOf(err))
	}
	if len(b) > maxConfig {
		return nil, driver.Errorf(driver.ErrBudget, "blkdebug config file '%s' has more than %d bytes", name, maxConfig)
	}
	return parseConfig(b)
}

// errnoOf leaves the reason of an error of the system.
func errnoOf(err error) error {
	if pe, ok := err.(*os.PathError); ok {
		return pe.Err
	}
	return err
}

// parseConfig reads groups in brackets and, in each, lines of the form key = "value".
func parseConfig(b []byte) ([]*rule, error) {
	var rules []*rule
	group, keys := "", opts.Dict{}
	end := func() error {
		if group == "" {
			return nil
		}
		r, err := parseRule(group, keys)
		rules, group, keys = append(rules, r), "", opts.Dict{}
		return err
	}
	for sc := bufio.NewScanner(bytes.NewReader(b)); sc.Scan(); {
		line := strings.TrimSpace(sc.Text())
		switch {
		case line == "" || line[0] == '#':
		case line[0] == '[':
			if err := end(); err != nil {
				return nil, err
			}
			group, _, _ = strings.Cut(strings.TrimSuffix(line[1:], "]"), " ")
			if group != "inject-error" && group != "set-state" {
				return nil, driver.Errorf(driver.ErrInvalid, "there is no option group '%s'", group)
			}
		case group == "":
			return nil, driver.Errorf(driver.ErrInvalid, "no group defined")
		default:
			k, v := keyValue(line)
			keys[k] = v
		}
	}
	return rules, end()
}

// keyValue splits key = "value". What is not in quotes does not count, as in QEMU.
func keyValue(line string) (key, value string) {
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		return line, ""
	}
	key = line[:i]
	rest, ok := strings.CutPrefix(strings.TrimSpace(line[i:]), "=")
	rest, quoted := strings.CutPrefix(strings.TrimSpace(rest), `"`)
	if !ok || !quoted {
		return key, ""
	}
	value, _, _ = strings.Cut(rest, `"`)
	return key, value
}
