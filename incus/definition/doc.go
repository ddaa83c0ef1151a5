// Package definition reads the YAML definitions of Incus images: where a root file system
// comes from, what is done with it and what the image says about itself. The schema is
// that of distrobuilder 3.4 (https://linuxcontainers.org/distrobuilder/docs/latest/), read
// strictly: unknown and duplicate keys are errors.
//
// Texts of a definition may be templates (package pongo2, the language of Django), which
// see the definition. A definition may come from a stranger: its size, its nesting, the
// size of what a template makes and how often that is rendered again are bounded, and the
// tags and filters of templates that read files of the machine, or that make texts of any
// length of a short one, are refused.
//
// A Definition may be read by several goroutines once it is made.
package definition
