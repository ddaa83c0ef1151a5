//go:build unix

// Package posix has the agent's commands that Unix systems do in the same way:
// OS information, time zone, SSH keys, and running helper programs.
package posix
