// Package sector encrypts and decrypts disks sector by sector, with the ciphers,
// modes and generators of initialisation vectors that LUKS and qcow2 name.
//
// Every sector is a message of its own: its IV follows from its number, and
// nothing is stored beside it. XTS is IEEE Std 1619-2007 without ciphertext
// stealing (sectors are whole blocks); CBC, ECB and CTR are NIST SP 800-38A; the
// IV generators are those of dm-crypt: plain (number as 32 bits, little-endian),
// plain64 (64 bits), plain64be (64 bits, big-endian, at the end), null (zeroes)
// and essiv (plain64, encrypted with a hash of the key).
package sector
