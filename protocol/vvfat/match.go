package vvfat

import (
	"slices"

	"github.com/cowl-disk/cowl/internal/fat"
)

// match finds what the guest's files and folders are in the folder.
func (a *applier) match(root *fat.File) {
	byCluster := map[uint32]*item{}
	var index func(*item)
	index = func(dir *item) {
		for _, it := range dir.children {
			if it.first != 0 {
				byCluster[it.first] = it
			}
			if it.dir {
				index(it)
			}
		}
	}
	index(a.n.top)
	a.pair(root, a.n.top)

	// Folders: by cluster, since they keep theirs; then by name.
	each(root, func(f, _ *fat.File) {
		if it := byCluster[f.First]; f.Dir && f.First != 0 && it != nil && it.dir && !a.used[it] {
			a.pair(f, it)
		}
	})
	each(root, func(f, parent *fat.File) {
		if it := a.named(f, parent); f.Dir && it != nil {
			a.pair(f, it)
		}
	})
	// Files: those that are where they were; those that have moved, if nothing else about them
	// has changed; those that have a new content.
	each(root, func(f, parent *fat.File) {
		if it := a.named(f, parent); !f.Dir && it != nil && it.first == f.First {
			a.pair(f, it)
		}
	})
	each(root, func(f, _ *fat.File) {
		if it := byCluster[f.First]; !f.Dir && f.First != 0 && it != nil && !it.dir && !a.used[it] && a.sameContent(f, it) {
			a.pair(f, it)
		}
	})
	each(root, func(f, parent *fat.File) {
		if it := a.named(f, parent); !f.Dir && it != nil {
			a.pair(f, it)
		}
	})
}

// each calls do for all below a directory, from the top.
func each(dir *fat.File, do func(f, parent *fat.File)) {
	for _, f := range dir.Children {
		do(f, dir)
		if f.Dir {
			each(f, do)
		}
	}
}

func (a *applier) pair(f *fat.File, it *item) {
	if a.partner[f] == nil && !a.used[it] {
		a.partner[f], a.used[it] = it, true
	}
}

// names finds what is in a folder by its name, and by the names that it has for the guest.
type names struct {
	exact, folded map[string]*item
	short         map[[11]byte]*item
}

// names returns those of a folder, as they are before anything is changed.
func (a *applier) names(dir *item) *names {
	if n := a.known[dir]; n != nil {
		return n
	}
	n := &names{map[string]*item{}, map[string]*item{}, map[[11]byte]*item{}}
	for _, it := range dir.children {
		n.exact[it.name], n.folded[fat.Fold(it.name)], n.short[it.short] = it, it, it
	}
	a.known[dir] = n
	return n
}

// named returns what has the name of f in the folder, if it is of its kind and neither has
// a partner.
func (a *applier) named(f, parent *fat.File) *item {
	p := a.partner[parent]
	if p == nil || a.partner[f] != nil {
		return nil
	}
	n := a.names(p)
	found := []*item{n.exact[f.Name]}
	if !f.Long {
		found = append(found, n.short[f.Short], n.folded[fat.Fold(f.Name)])
	}
	for _, it := range found {
		if it != nil && it.dir == f.Dir && !a.used[it] {
			return it
		}
	}
	return nil
}

// answersTo says whether a name without a long one can be that of it.
func (it *item) answersTo(f *fat.File) bool {
	return it.short == f.Short || fat.Fold(it.name) == fat.Fold(f.Name)
}

// sameContent says whether nothing was written to a file since the folder has it.
func (a *applier) sameContent(f *fat.File, it *item) bool {
	if f.Size != it.size || !slices.Equal(f.Runs, it.runs) {
		return false
	}
	for _, r := range f.Runs {
		off := a.n.plan.start + a.n.plan.Offset(r.First)
		if a.n.overlay.dirty.any(off/sector, int64(r.Count)*a.n.plan.ClusterSectors) {
			return false
		}
	}
	return true
}

// hostName is the name that a file of the guest gets in the folder. What has a short name only
// keeps the name that it has there.
func (a *applier) hostName(f *fat.File, siblings map[string]bool) string {
	it := a.partner[f]
	if it == nil || f.Long || !it.answersTo(f) {
		return f.Name
	}
	if key := fat.Fold(it.name); key != fat.Fold(f.Name) && siblings[key] {
		return f.Name
	}
	return it.name
}
