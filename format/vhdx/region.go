package vhdx

import (
	"cmp"
	"context"
	"slices"

	"github.com/cowl-disk/cowl/block/driver"
)

const (
	regionSignature = "regi"
	regionHead      = 16
	entryBytes      = 32 // of region tables and of the metadata table
	maxEntries      = 2047
)

// region is an entry of the region table (2.2.3.2).
type region struct {
	id          guid
	off, length int64
	required    bool
}

func (r region) end() int64 { return r.off + r.length }

// regionTable returns the first whole copy of the region table.
func regionTable(ctx context.Context, file driver.Storage) ([]byte, error) {
	b := make([]byte, regionBytes)
	for _, off := range []int64{firstRegions, lastRegions} {
		if err := readAt(ctx, file, b, off); err != nil {
			return nil, err
		}
		if string(b[:4]) == regionSignature && sealed(b) && le.Uint32(b[8:]) <= maxEntries {
			return b, nil
		}
	}
	return nil, corrupt("no valid VHDX region table found")
}

// readRegions returns the regions that the table names, and log, in the order of the file,
// and of them the one of the BAT and the one of the metadata.
func readRegions(ctx context.Context, file driver.Storage, log region) (all []region, bat, meta region, err error) {
	b, err := regionTable(ctx, file)
	if err != nil {
		return nil, bat, meta, err
	}
	for i := range int64(le.Uint32(b[8:])) {
		e := b[regionHead+i*entryBytes:]
		r := region{id: guid(e[:16]), off: int64(min(le.Uint64(e[16:]), 1<<62)), length: int64(le.Uint32(e[24:])), required: le.Uint32(e[28:])&1 != 0}
		if r.off < headerEnd || r.off%mib != 0 || r.length%mib != 0 || r.length == 0 {
			return nil, bat, meta, corrupt("a region of %d bytes at offset %d cannot be right", r.length, r.off)
		}
		switch r.id {
		case regionBAT, regionMetadata:
			to := &bat
			if r.id == regionMetadata {
				to = &meta
			}
			if to.length != 0 {
				return nil, bat, meta, corrupt("the region %s is there twice", r.id)
			}
			*to = r
		default:
			if r.required {
				return nil, bat, meta, unsupported("the region %s is required, and not known", r.id)
			}
		}
		all = append(all, r)
	}
	if bat.length == 0 || meta.length == 0 {
		return nil, bat, meta, corrupt("the image has no table of blocks, or no metadata")
	}
	if log.length > 0 {
		all = append(all, log)
	}
	slices.SortFunc(all, func(a, b region) int { return cmp.Compare(a.off, b.off) })
	for i := 1; i < len(all); i++ {
		if a, b := all[i-1], all[i]; a.end() > b.off {
			return nil, bat, meta, corrupt("VHDX region %d-%d overlaps with region %d-%d", b.off, b.end(), a.off, a.end())
		}
	}
	return all, bat, meta, nil
}

// encodeRegions returns a region table.
func encodeRegions(list ...region) []byte {
	b := make([]byte, regionBytes)
	copy(b, regionSignature)
	le.PutUint32(b[8:], uint32(len(list)))
	for i, r := range list {
		e := b[regionHead+i*entryBytes:]
		copy(e, r.id[:])
		le.PutUint64(e[16:], uint64(r.off))
		le.PutUint32(e[24:], uint32(r.length))
		if r.required {
			e[28] = 1
		}
	}
	seal(b)
	return b
}
