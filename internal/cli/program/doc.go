// Package program is the frame of the command lines: what qemu-img, qemu-nbd and
// the programs that follow have in common. It reads options that are declared
// once (Option, Command), prints help, completion scripts and manual pages from the
// same declarations, runs the process (signals, standard streams, limits of the
// system) and tells its version.
package program
