// Package fat writes FAT file systems (FAT12, FAT16, FAT32) with long names from trees of
// package fstree, as EFI system partitions need them. It needs no privileges and no other
// program, and gives the same bytes for the same tree and options.
//
// FAT holds files and directories with their times from 1980 to 2107 in steps of two
// seconds. It has no owners, permissions, links and devices: trees with symbolic links or
// devices are refused, hard links become files of their own. All files lie in one piece
// each, in the order of their names.
//
// The format is described by the FAT File System Specification (Microsoft, version 1.03)
// and by ECMA-107.
package fat
