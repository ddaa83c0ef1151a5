//go:build !linux

// Package linux has the commands of the guest agent that touch a system of that name.
package linux
