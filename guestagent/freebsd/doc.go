//go:build freebsd

// Package freebsd has the commands of the guest agent that touch a FreeBSD system:
// those that QEMU's agent has there, but for users.
package freebsd
