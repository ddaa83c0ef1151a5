// Package distrobuilder is the command line that makes images for Incus: pack-incus,
// build-incus, build-dir and validate take the arguments of the program distrobuilder, and
// say and return what it does; repack-incus and incus-index are ours.
package distrobuilder
