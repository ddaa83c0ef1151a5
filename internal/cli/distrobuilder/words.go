package distrobuilder

import "regexp"

// capitals are the beginnings of messages, or of parts of them, that distrobuilder writes
// with a capital.
var capitals = regexp.MustCompile(`(^|: )(failed to|options need|unsupported type|architecture|index out|invalid filter|unknown cloud-init|compression method|squashfs compression|invalid compression|invalid squashfs|file type of|error while|error for)`)

// capitalised is an error's text in the words of distrobuilder.
func capitalised(text string) string {
	return capitals.ReplaceAllStringFunc(text, func(s string) string {
		b := []byte(s)
		for i := range b {
			if b[i] >= 'a' && b[i] <= 'z' {
				b[i] -= 'a' - 'A'
				break
			}
		}
		return string(b)
	})
}
