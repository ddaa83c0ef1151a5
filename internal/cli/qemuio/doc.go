// Package qemuio is the command line of the disk exerciser: qemu-io, also "cowl io".
// It opens one image and does to it, request by request, what commands say: tests of
// formats and of block layers are written with it.
package qemuio
