package qcow2

import (
	"maps"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/opts"
)

func TestJoinOptions(t *testing.T) {
	for _, c := range []struct {
		name             string
		old, given, want opts.Dict
	}{
		{"others stay", opts.Dict{"lazy-refcounts": "on", "overlap-check": "all"}, opts.Dict{"discard-no-unref": "on"},
			opts.Dict{"lazy-refcounts": "on", "overlap-check": "all", "discard-no-unref": "on"}},
		{"a new template", opts.Dict{"overlap-check": "all", "overlap-check.active-l1": "off", "lazy-refcounts": "on"}, opts.Dict{"overlap-check.template": "none"},
			opts.Dict{"overlap-check.template": "none", "lazy-refcounts": "on"}},
		{"the template stays with a new check", opts.Dict{"overlap-check": "all"}, opts.Dict{"overlap-check.active-l1": "off"},
			opts.Dict{"overlap-check": "all", "overlap-check.active-l1": "off"}},
		{"a new total", opts.Dict{"l2-cache-size": "1M", "refcount-cache-size": "2M"}, opts.Dict{"cache-size": "4M"}, opts.Dict{"cache-size": "4M"}},
		{"one new part", opts.Dict{"cache-size": "4M"}, opts.Dict{"l2-cache-size": "1M"}, opts.Dict{"cache-size": "4M", "l2-cache-size": "1M"}},
		{"both parts", opts.Dict{"cache-size": "4M", "l2-cache-size": "1M"}, opts.Dict{"refcount-cache-size": "1M"},
			opts.Dict{"l2-cache-size": "1M", "refcount-cache-size": "1M"}},
		{"all at once", opts.Dict{}, opts.Dict{"cache-size": "4M", "l2-cache-size": "1M", "refcount-cache-size": "1M"},
			opts.Dict{"cache-size": "4M", "l2-cache-size": "1M", "refcount-cache-size": "1M"}},
	} {
		New().(*Driver).JoinOptions(c.old, c.given)
		if !maps.Equal(c.old, c.want) {
			t.Errorf("%s: %v, want %v", c.name, c.old, c.want)
		}
	}
}

// TestCachesTooBig: the number of tables in a cache is bounded; what the disk does not
// need is not counted.
func TestCachesTooBig(t *testing.T) {
	size := func(n int64) *int64 { return &n }
	g := &geometry{clusterBits: 16, clusterSize: 64 << 10, l2Bits: 13}
	for _, c := range []struct {
		name string
		o    openOptions
		disk int64
		want string
	}{
		{"L2", openOptions{L2CacheSize: size(1 << 40), L2CacheEntrySize: size(512)}, 1 << 55, "L2 cache size too big"},
		{"L2 of a small disk", openOptions{L2CacheSize: size(1 << 40), L2CacheEntrySize: size(512)}, 1 << 30, ""},
		{"refcounts", openOptions{RefcountCacheSize: size(1 << 48)}, 1 << 30, "refcount cache size too big"},
	} {
		_, err := c.o.caches(g, c.disk, false)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}
