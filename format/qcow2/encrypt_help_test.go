package qcow2

import (
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
)

// testSecrets are secrets by id.
type testSecrets map[string]string

func (s testSecrets) Secret(id string) ([]byte, error) {
	if v, ok := s[id]; ok {
		return []byte(v), nil
	}
	return nil, fmt.Errorf("No secret with id '%s'", id)
}

func (testSecrets) TLSCreds(string) (*driver.TLSCreds, error) { panic("not used") }
