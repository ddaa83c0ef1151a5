// Package qapi holds the JSON shapes that the commands print: the members,
// types and omissions of QEMU's schema (qapi/block-core.json). It is a leaf:
// it imports nothing of this module.
package qapi
