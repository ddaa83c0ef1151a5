// Package incus makes the images of Incus: a tar archive with what the image says of itself,
// beside the root file system as a squashfs or the disk of a virtual machine as a qcow2
// (split), or with it in one archive (unified).
//
// An Image is a definition and a tree of package fstree. Generate does what the definition
// says about files, and Pack writes. No privilege and no other program is needed. What is
// written depends on the tree, the definition, the options and the time of the image only,
// not on the day, the machine or the number of processors; where no time is given, it is
// the latest one of a file.
//
// Files come under their final names whole or not at all, and are read back before.
//
// The fingerprint of an image is the SHA-256 of its files, the archive first: what Incus
// calls the image once it is imported (https://linuxcontainers.org/incus/docs/main/reference/image_format/).
package incus
