// Package qemuga is the program qemu-ga: its command line, configuration file and life
// cycle around package guestagent.
package qemuga
