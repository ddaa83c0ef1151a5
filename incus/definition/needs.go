package definition

import "fmt"

// Work is which kind of work is done with a definition.
type Work uint8

// Kinds of work.
const (
	// Pack makes an image of a root file system that is there. Actions before post-files,
	// package sets and repositories count only if they name types.
	Pack Work = iota
	// Build makes one of a source.
	Build
	// BuildDir makes the root file system only: for no type of image.
	BuildDir
)

// accepts returns which types count before and after the root file system is made.
func (w Work) accepts() (before, after Accept) {
	switch w {
	case Pack:
		return Typed, Untyped | Typed
	case Build:
		return Untyped | Typed, Untyped | Typed
	}
	return Untyped, Untyped
}

// Before is what counts of actions up to post-packages, package sets and repositories.
func (w Work) Before() Accept { before, _ := w.accepts(); return before }

// After is what counts of actions post-files.
func (w Work) After() Accept { _, after := w.accepts(); return after }

// Needs lists the parts of the definition that run programs in the root file system, by
// their paths in the definition.
func (d *Definition) Needs(w Work) []string {
	before, after := w.accepts()
	var list []string
	for i, r := range d.Packages.Repositories {
		if d.For(r.Filter, before) {
			list = append(list, fmt.Sprintf("packages.repositories.%d", i))
		}
	}
	if d.Packages.Update {
		list = append(list, "packages.update")
	}
	for i, s := range d.Packages.Sets {
		if d.For(s.Filter, before) {
			list = append(list, fmt.Sprintf("packages.sets.%d", i))
		}
	}
	for i, a := range d.Actions {
		accept := before
		if a.Trigger == "post-files" {
			accept = after
		}
		if a.Trigger == "post-update" && !d.Packages.Update {
			continue
		}
		if d.For(a.Filter, accept) {
			list = append(list, fmt.Sprintf("actions.%d (%s)", i, a.Trigger))
		}
	}
	return list
}
