// Package qed implements the QEMU enhanced disk format.
//
// The specification is docs/interop/qed_spec of the QEMU project; comments name its
// sections. A table (L1) names tables (L2), which name clusters of the disk; all of
// them are appended to the file as they are needed. All numbers are little-endian.
//
// The need-check bit is durable before the first table changes and cleared by Close. An
// image that has it is checked and repaired when it is opened for writing, and keeps
// it if something is left that cannot be repaired: no broken image is called clean.
// Tables are written in an order in which a crash leaves clusters without a
// reference, at most, so that images read right without a check.
//
// The lock order is that of package blockmap; image.mu, for the header, is a leaf.
package qed
