//go:build !windows

// Package windows has the commands of the guest agent that touch a Windows system.
package windows
