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
// their paths in the definition: before its files are made, and after.
func (d *Definition) Needs(w Work) (before, after []string) {
	for i, r := range d.Packages.Repositories {
		if d.For(r.Filter, w.Before()) {
			before = append(before, fmt.Sprintf("packages.repositories.%d", i))
		}
	}
	if d.Packages.Update {
		before = append(before, "packages.update")
	}
	for i, s := range d.Packages.Sets {
		if d.For(s.Filter, w.Before()) {
			before = append(before, fmt.Sprintf("packages.sets.%d", i))
		}
	}
	for i, a := range d.Actions {
		name := fmt.Sprintf("actions.%d (%s)", i, a.Trigger)
		switch {
		case a.Trigger == "post-files":
			if d.For(a.Filter, w.After()) {
				after = append(after, name)
			}
		case a.Trigger == "post-update" && !d.Packages.Update:
		case d.For(a.Filter, w.Before()):
			before = append(before, name)
		}
	}
	return before, after
}
