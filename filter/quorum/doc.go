// Package quorum keeps a disk on several children. A write goes to all of them and
// succeeds if as many as the threshold did; a read asks all, and what most of them hold,
// at least the threshold, is the answer. With read-pattern=fifo a read asks one child
// after the other until one answers.
//
// With blkverify=on two children are compared: a difference fails the read with its
// offset. With rewrite-corrupted=on children that were outvoted get the right contents.
//
// Lock order: node.ranges alone.
package quorum
