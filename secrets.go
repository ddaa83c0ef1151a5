package cowl

import "github.com/cowl-disk/cowl/block/driver"

// Objects holds what options refer to by id: secrets and TLS credentials.
type Objects = driver.Objects

// Secrets returns Objects that hold the passphrases of encrypted images, by the id
// that options name them by (key-secret). The map is not copied: do not change it
// while an image is being opened.
func Secrets(byID map[string]string) Objects { return secrets(byID) }

type secrets map[string]string

// Secret implements driver.Objects.
func (s secrets) Secret(id string) ([]byte, error) {
	text, ok := s[id]
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "No secret with id '%s'", id)
	}
	return []byte(text), nil
}

// TLSCreds implements driver.Objects: there are none.
func (secrets) TLSCreds(id string) (*driver.TLSCreds, error) {
	return nil, driver.Errorf(driver.ErrInvalid, "No TLS credentials with id '%s'", id)
}
