package cowl

import "github.com/cowl-disk/cowl/block/driver"

// Objects holds what options refer to by id: secrets and TLS credentials.
type Objects = driver.Objects

// Secrets returns Objects that hold the passphrases of encrypted images, by the id
// that options name them by (key-secret). The map is not copied: do not change it
// while an image is being opened.
func Secrets(byID map[string]string) Objects { return driver.Secrets(byID) }
