// Package testkit helps tests: QEMU's tools, random content, a model of a
// disk, a recorder of writes for replaying crashes, and small file systems.
package testkit
