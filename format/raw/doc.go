// Package raw is the format without a header: the guest disk is the file, or the
// part of it that the options offset and size select.
//
// A file whose length is not a multiple of 512 shows as a disk that is rounded
// up; the bytes after the end of the file read as zeroes, and writing them
// extends the file.
package raw
