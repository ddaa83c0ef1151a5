// Package qemuimg is the command line of qemu-img, and of cowl, which has the
// same commands. Each command has a file of its own: its declaration, and a function
// over package ops that returns an exit code.
//
// Options are declared once, for reading the command line and for --help. Where
// spellings differ between versions of QEMU, all of them are declared; where a letter
// has changed its meaning, both letters are.
package qemuimg
