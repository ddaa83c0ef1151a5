// Package source gets root file systems from where the definitions of package definition
// say: it downloads, verifies and unpacks, without privileges. Owners and devices come
// from the archives.
//
// What is downloaded is kept in a folder and used again while the server says that it has
// not changed, or while it has the sum that the server names. Signatures are verified with
// the keys of the definition. Without keys what comes over https is taken for what it
// should be, its sum is verified where there is one, and plain http is refused, unless
// the definition says skip_verification.
//
// Of the downloaders of distrobuilder those that only download and unpack are here, and
// debootstrap and rpmbootstrap by programs of the host, as root. Others are refused by
// their names.
package source
