// Package recognised knows image formats by their magic only. It keeps their images
// from being taken for raw: a container that is copied as if it were a disk looks
// like a success and is none. Opening such an image fails with a message that names
// the format.
package recognised
