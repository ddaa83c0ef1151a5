// Package fstree holds the tree of a file system in memory: names, modes, owners,
// times, extended attributes, device numbers, symbolic and hard links. The contents of
// files stay where they are and are opened when somebody reads them.
//
// Trees are made from a folder (FromDir), from a tar archive of any usual compression
// (FromTar), from the layers of an OCI layout or a "docker save" archive (FromOCI), and
// by package squashfs from its images. Owners and device nodes come from the archive, so
// that no privilege is needed for them. The writers of file systems take trees.
//
// An archive may come from a stranger. Names never lead out of the tree: a ".." in the
// name of an entry or of a hard link's target is refused, and a symbolic link on the way
// to an entry is followed inside the tree only. Limits bound what an archive can cost.
//
// A tree is not safe for concurrent use. The contents of its files are.
package fstree
