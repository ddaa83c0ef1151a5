// Package testkit helps tests: the original tools, random content, a model of a
// disk, a recorder of writes for replaying crashes, and small file systems.
package testkit
