//go:build !unix

// Package posix has the commands of the agent that Unix systems share.
package posix
