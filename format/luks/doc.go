// Package luks is the format "luks": a disk that is encrypted as a whole, behind a
// LUKS header with key slots. It reads and writes versions 1 and 2, creates version 1,
// and amends the key slots of version 1. The header itself is the business of package
// crypto/luks, which names the specifications, the ciphers that of crypto/sector.
//
// The disk is the payload, byte for byte, behind the header or, if that is detached,
// in a file of its own. So there is nothing to allocate and nothing that is known to be
// zero: holes of the file read as what zeroes decrypt to, writing zeroes writes
// encrypted zeroes, and what a disk grows by reads as anything.
//
// Opening for looking at metadata only needs no passphrase; everything else does.
//
// Locks: none of its own. What Open found out does not change, but for the header's
// key slots, which only Amend changes, and during which no other request is under way.
//
// Not supported: creating version 2 and changing its header; see crypto/luks for
// volumes that are refused.
package luks
