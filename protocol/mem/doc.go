// Package mem keeps disks in memory: for tests, and as scratch space.
//
// A disk is sparse; its holes are known by the page. A Driver remembers by name
// the disks that were created through it or added to it, for as long as it
// lives; opened without a name, it makes a disk that vanishes when closed.
//
// Locks: Disk.mu is taken before chunk.mu.
package mem
