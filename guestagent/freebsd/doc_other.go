//go:build !freebsd

// Package freebsd has the commands of the guest agent that touch a system of that name.
package freebsd
