package qcow2

import (
	"maps"
	"math"
	"strings"
	"time"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// openOptions are the options of an open image. Sizes are bytes.
type openOptions struct {
	LazyRefcounts       *bool `opt:"lazy-refcounts" runtime:"on" help:"Postpone refcount updates"`
	PassDiscardRequest  bool  `opt:"pass-discard-request" default:"on" runtime:"on" help:"Pass guest discard requests to the layer below"`
	PassDiscardSnapshot bool  `opt:"pass-discard-snapshot" default:"on" runtime:"on" help:"Generate discard requests when snapshot related space is freed"`
	PassDiscardOther    bool  `opt:"pass-discard-other" runtime:"on" help:"Generate discard requests when other clusters are freed"`
	DiscardNoUnref      bool  `opt:"discard-no-unref" runtime:"on" help:"Do not unreference discarded clusters"`

	Overlap                string `opt:"overlap-check" runtime:"on" help:"Selects which overlap checks to perform from a range of templates (none, constant, cached, all)"`
	OverlapTemplate        string `opt:"overlap-check.template" runtime:"on" help:"Selects which overlap checks to perform from a range of templates (none, constant, cached, all)"`
	OverlapMainHeader      *bool  `opt:"overlap-check.main-header" runtime:"on" help:"Check for unintended writes into the main qcow2 header"`
	OverlapActiveL1        *bool  `opt:"overlap-check.active-l1" runtime:"on" help:"Check for unintended writes into the active L1 table"`
	OverlapActiveL2        *bool  `opt:"overlap-check.active-l2" runtime:"on" help:"Check for unintended writes into an active L2 table"`
	OverlapRefcountTable   *bool  `opt:"overlap-check.refcount-table" runtime:"on" help:"Check for unintended writes into the refcount table"`
	OverlapRefcountBlock   *bool  `opt:"overlap-check.refcount-block" runtime:"on" help:"Check for unintended writes into a refcount block"`
	OverlapSnapshotTable   *bool  `opt:"overlap-check.snapshot-table" runtime:"on" help:"Check for unintended writes into the snapshot table"`
	OverlapInactiveL1      *bool  `opt:"overlap-check.inactive-l1" runtime:"on" help:"Check for unintended writes into an inactive L1 table"`
	OverlapInactiveL2      *bool  `opt:"overlap-check.inactive-l2" runtime:"on" help:"Check for unintended writes into an inactive L2 table"`
	OverlapBitmapDirectory *bool  `opt:"overlap-check.bitmap-directory" runtime:"on" help:"Check for unintended writes into the bitmap directory"`

	// The options of the node that decrypts, read by encrypt.go: here for the form
	// that they have in names.
	EncryptFormat string `opt:"encrypt.format" runtime:"on" help:"Encryption format (aes, luks)"`
	EncryptSecret string `opt:"encrypt.key-secret" help:"ID of the secret that provides the AES key or the LUKS passphrase"`

	CacheSize          *int64 `opt:"cache-size" type:"size" runtime:"on" help:"Maximum combined metadata (L2 tables and refcount blocks) cache size"`
	L2CacheSize        *int64 `opt:"l2-cache-size" type:"size" runtime:"on" help:"Maximum L2 table cache size"`
	L2CacheEntrySize   *int64 `opt:"l2-cache-entry-size" type:"size" runtime:"on" help:"Size of each entry in the L2 cache"`
	RefcountCacheSize  *int64 `opt:"refcount-cache-size" type:"size" runtime:"on" help:"Maximum refcount block cache size"`
	CacheCleanInterval *int64 `opt:"cache-clean-interval" type:"number" runtime:"on" help:"Clean unused cache entries after this time (in seconds)"`
}

var openSchema = opts.SchemaOf(openOptions{})

// JoinOptions implements driver.OptionJoiner. A new template of overlap checks takes the
// place of all that was said of them. Of the three sizes of caches two tell the third: an
// old total makes way for new parts, and old parts for a new total.
func (*Driver) JoinOptions(old, given opts.Dict) {
	_, template := given["overlap-check"]
	_, nested := given["overlap-check.template"]
	_, total := given["cache-size"]
	maps.DeleteFunc(old, func(key string, _ any) bool {
		part := key == "l2-cache-size" || key == "refcount-cache-size"
		check := key == "overlap-check" || strings.HasPrefix(key, "overlap-check.")
		return (template || nested) && check || total && part
	})
	maps.Copy(old, given)
	if old["l2-cache-size"] != nil && old["refcount-cache-size"] != nil && !total {
		delete(old, "cache-size")
	}
}

// overlapSet says which metadata new writes are checked against.
type overlapSet uint16

const (
	overlapMainHeader overlapSet = 1 << iota
	overlapActiveL1
	overlapActiveL2
	overlapRefcountTable
	overlapRefcountBlock
	overlapSnapshotTable
	overlapInactiveL1
	overlapInactiveL2
	overlapBitmapDirectory

	overlapConstant = overlapMainHeader | overlapActiveL1 | overlapRefcountTable | overlapSnapshotTable | overlapInactiveL1 | overlapBitmapDirectory
	overlapCached   = overlapConstant | overlapActiveL2 | overlapRefcountBlock
	overlapAll      = overlapCached | overlapInactiveL2
)

func (o *openOptions) overlaps() (overlapSet, error) {
	if o.Overlap != "" && o.OverlapTemplate != "" && o.Overlap != o.OverlapTemplate {
		return 0, driver.Errorf(driver.ErrInvalid, "conflicting values for qcow2 options 'overlap-check' ('%s') and 'overlap-check.template' ('%s')",
			o.Overlap, o.OverlapTemplate)
	}
	template := o.Overlap
	if template == "" {
		template = o.OverlapTemplate
	}
	var set overlapSet
	switch template {
	case "none":
	case "constant":
		set = overlapConstant
	case "", "cached":
		set = overlapCached
	case "all":
		set = overlapAll
	default:
		return 0, driver.Errorf(driver.ErrInvalid, "unsupported value '%s' for qcow2 option 'overlap-check'. Allowed are any of the following: none, constant, cached, all", template)
	}
	for _, b := range []struct {
		bit overlapSet
		val *bool
	}{
		{overlapMainHeader, o.OverlapMainHeader}, {overlapActiveL1, o.OverlapActiveL1}, {overlapActiveL2, o.OverlapActiveL2},
		{overlapRefcountTable, o.OverlapRefcountTable}, {overlapRefcountBlock, o.OverlapRefcountBlock},
		{overlapSnapshotTable, o.OverlapSnapshotTable}, {overlapInactiveL1, o.OverlapInactiveL1},
		{overlapInactiveL2, o.OverlapInactiveL2}, {overlapBitmapDirectory, o.OverlapBitmapDirectory},
	} {
		if b.val == nil {
			continue
		}
		set &^= b.bit
		if *b.val {
			set |= b.bit
		}
	}
	return set, nil
}

// cacheSizes says how many bytes the caches may hold and how large an L2 slice is.
type cacheSizes struct {
	l2, refcount, slice int64
	cleanInterval       time.Duration // 0: never
}

const (
	maxDefaultL2Cache    = 32 << 20
	sequentialL2Cache    = 4 << 20
	maxDefaultRefBlocks  = 4 << 20
	defaultSliceSize     = 16 << 10
	minCacheTables       = 2 // tables that one request may need at once
	minRefcountCacheSize = 4 // refcount blocks
	defaultCleanInterval = 600 * time.Second
	minSliceSize         = 512
)

func (o *openOptions) caches(g *geometry, diskSize int64, sequential bool) (cacheSizes, error) {
	invalid := func(format string, args ...any) (cacheSizes, error) {
		return cacheSizes{}, driver.Errorf(driver.ErrInvalid, format, args...)
	}
	c := cacheSizes{slice: min(defaultSliceSize, g.clusterSize), cleanInterval: defaultCleanInterval}
	if o.L2CacheEntrySize != nil {
		c.slice = *o.L2CacheEntrySize
		if c.slice < minSliceSize || c.slice > g.clusterSize || c.slice&(c.slice-1) != 0 {
			return invalid("L2 cache entry size must be a power of two between %d and the cluster size (%d)", minSliceSize, g.clusterSize)
		}
	}
	// What maps the whole disk, and one table more so that it never thrashes.
	need := (diskSize/g.l2Range() + 2) * g.clusterSize
	c.l2 = min(maxDefaultL2Cache, need)
	if sequential {
		c.l2 = min(sequentialL2Cache, need)
	}
	c.refcount = max(maxDefaultRefBlocks, minRefcountCacheSize*g.clusterSize)
	if o.CacheSize != nil && o.L2CacheSize != nil && o.RefcountCacheSize != nil {
		return invalid("cache-size, l2-cache-size and refcount-cache-size may not be set at the same time")
	}
	if o.CacheSize != nil {
		total := *o.CacheSize
		if o.L2CacheSize != nil && *o.L2CacheSize > total {
			return invalid("l2-cache-size may not exceed cache-size")
		}
		if o.RefcountCacheSize != nil && *o.RefcountCacheSize > total {
			return invalid("refcount-cache-size may not exceed cache-size")
		}
		c.l2 = min(need, max(0, total-minRefcountCacheSize*g.clusterSize))
		if o.RefcountCacheSize != nil {
			c.l2 = total - *o.RefcountCacheSize
		}
		if o.L2CacheSize != nil {
			c.l2 = *o.L2CacheSize
		}
		c.refcount = total - c.l2
	}
	if o.L2CacheSize != nil {
		c.l2 = *o.L2CacheSize
	}
	if o.RefcountCacheSize != nil {
		c.refcount = *o.RefcountCacheSize
	}
	if min(c.l2, need)/c.slice > math.MaxInt32 {
		return invalid("L2 cache size too big")
	}
	if c.refcount/g.clusterSize > math.MaxInt32 {
		return invalid("refcount cache size too big")
	}
	c.l2 = max(c.l2, minCacheTables*c.slice)
	c.refcount = max(c.refcount, minRefcountCacheSize*g.clusterSize)
	if o.CacheCleanInterval != nil {
		if *o.CacheCleanInterval > 1<<32-1 {
			return invalid("cache clean interval too big")
		}
		c.cleanInterval = time.Duration(*o.CacheCleanInterval) * time.Second
	}
	return c, nil
}
