// Package caller makes storage of bytes that the calling program holds: of an
// io.ReaderAt, of one that can be written as well, and of an fs.File. An *os.File is
// better served by file.Handle, which knows where its holes are.
//
// What the functions return is for block.Source.Storage and
// block.CreateRequest.Storage. It may be opened several times. Closing an image on
// it closes nothing of the caller's.
//
// The drivers of this package have no scheme and are in no registry: no image can name
// them.
package caller
