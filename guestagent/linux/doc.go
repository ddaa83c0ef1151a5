//go:build linux

// Package linux has the commands of the guest agent that touch a Linux system.
//
// What is read from sysfs, procfs, /run and /etc is looked for below System.Root, so
// that a test can have a tree of its own; what the kernel is told goes through Kernel.
// There is no udev library: /run/udev/data is read where udev has run, sysfs elsewhere.
package linux
