// Package luks reads and writes the headers of LUKS volumes: it opens versions 1
// and 2, creates version 1, and adds and erases key slots of version 1.
//
// Specifications: "LUKS On-Disk Format Specification" version 1.2.3 and "LUKS2
// On-Disk Format Specification" version 1.1.1, both of the cryptsetup project.
//
// A volume is a header with key slots, then the payload: sectors encrypted with the
// volume key. Each key slot holds the volume key, spread over many stripes and
// encrypted with a key derived from a passphrase; any one of them opens the volume.
//
// The package does no I/O of its own but through Area, keeps no secret longer than
// a call but in what it returns (Key), and trusts nothing that it reads: offsets and
// lengths are checked against the area before memory is reserved, derivations that
// a header asks for can be cancelled, and their memory is asked for (Header.Reserve).
//
// Not supported: LUKS2 volumes that are being reencrypted, those with integrity
// protection or with several segments, key slots and tokens of other types, and any
// change of a LUKS2 header. Those are refused with ErrUnsupported.
//
// A Header is not safe for concurrent use while its slots are changed; otherwise
// everything is.
package luks
