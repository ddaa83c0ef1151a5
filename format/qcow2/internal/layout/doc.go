// Package layout lays new images out: Create writes one to a file, Measure tells how
// large it would be, NewStream writes one with its data to something that cannot seek.
// No image needs to be open. What Create writes is byte for byte what QEMU writes for
// the same options.
package layout
