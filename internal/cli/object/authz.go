package object

import (
	"fmt"

	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/opts"
)

// Authz decides which peers that TLS has identified may connect.
type Authz struct {
	identity string // authz-simple: the one that may
}

// Allow tells whether the peer with the distinguished name may connect.
func (a *Authz) Allow(name string) bool { return name == a.identity }

func authz(typ string, d opts.Dict) (*Authz, error) {
	if typ != "authz-simple" {
		return nil, fmt.Errorf("Objects of type %s are not supported: use authz-simple", typ)
	}
	id, ok := d["identity"]
	if !ok {
		return nil, fmt.Errorf("Parameter 'identity' is missing")
	}
	return &Authz{identity: opts.Text(id)}, nil
}

// Authz returns the authorization object with an id.
func (s *Set) Authz(id string) (*Authz, error) {
	v, _ := s.get(id)
	a, ok := v.(*Authz)
	if !ok {
		return nil, driver.Errorf(driver.ErrInvalid, "No authorization object with id '%s'", id)
	}
	return a, nil
}
