//go:build !unix

package file

// Identity implements driver.Identifier. The system's locks keep two users of a file
// apart here.
func (n *node) Identity() string { return "" }
