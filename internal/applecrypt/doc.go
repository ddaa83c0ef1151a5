// Package applecrypt reads encrypted disk images of macOS ("Encrypted disk image format" in
// the documentation of libmodi; hdiutil(1), -encryption).
//
// Version 2 begins with a header, "encrcdsa", that says where the data are and how large a
// block is, and has a record for each way to unlock it; passphrases are known here,
// certificates are not. Version 1 ends with a header, "cdsaencr", of 1276 bytes. The passphrase
// gives a key of Triple DES (PBKDF2 with HMAC-SHA1), which wraps the keys of the image:
// one for AES with 128 or 256 bits, one for HMAC-SHA1. A block of the data is AES-CBC; its IV is
// the start of the HMAC of its number. Bands of a sparse bundle count their blocks for
// themselves (as github.com/jief666/sparsebundlefs reads them); the header is in the file
// "token".
//
// A Storage is safe for concurrent use; it has no locks.
package applecrypt
