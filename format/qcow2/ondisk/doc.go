// Package ondisk encodes and decodes the on-disk records of qcow2 by pure
// functions without I/O. Section names are those of the format's
// specification, "The QCOW2 image format" (docs/interop/qcow2 of QEMU).
//
// All integers on disk are big endian. Decoding never trusts a length: it
// fails if the input is too short.
package ondisk
