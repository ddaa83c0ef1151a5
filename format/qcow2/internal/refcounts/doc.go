// Package refcounts holds the refcounts of a qcow2 image (section "Host cluster
// management"): numbers by cluster index, in blocks that a table names. Blocks are
// read when they are needed and kept under a bound; what changed is written in
// batches. Which clusters are used for what, and when they are given back, is the
// task of the allocator's user.
//
// A region is the clusters that one block counts; its number is the index into the
// table. A cluster whose region has no block has the refcount zero.
package refcounts
