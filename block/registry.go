package block

import (
	"strings"

	"github.com/cowl-disk/cowl/block/driver"
)

// Registry is a set of drivers, in the order in which they are listed. It is
// not changed after NewRegistry.
type Registry struct {
	list   []driver.Driver
	byName map[string]driver.Driver
	scheme map[string]driver.Driver
}

// NewRegistry makes a registry. Of several drivers with one name or scheme the
// first wins.
func NewRegistry(ds ...driver.Driver) *Registry {
	r := &Registry{list: ds, byName: map[string]driver.Driver{}, scheme: map[string]driver.Driver{}}
	for _, d := range ds {
		desc := d.Desc()
		if _, dup := r.byName[desc.Name]; !dup {
			r.byName[desc.Name] = d
		}
		for _, s := range desc.Schemes {
			if _, dup := r.scheme[s]; !dup {
				r.scheme[s] = d
			}
		}
	}
	return r
}

// Drivers returns the drivers in order.
func (r *Registry) Drivers() []driver.Driver { return r.list }

// Lookup returns the driver called name, nil if there is none.
func (r *Registry) Lookup(name string) driver.Driver { return r.byName[name] }

// protocolFor finds the protocol, or filter, that opens a file name given by the
// user, and returns the name without the scheme.
func (r *Registry) protocolFor(filename string) (driver.Driver, string, error) {
	if scheme, rest, ok := schemeOf(filename); ok {
		if d := r.scheme[scheme]; d != nil {
			return d, rest, nil
		}
		return nil, "", driver.Errorf(driver.ErrInvalid, "unknown protocol '%s'", scheme)
	}
	d, err := r.plainName(filename)
	return d, filename, err
}

// plainName finds the protocol that opens a name without a scheme.
func (r *Registry) plainName(name string) (driver.Driver, error) {
	var plain driver.Driver
	for _, d := range r.list {
		// The first question for an ability of a type takes the runtime longer than all else here.
		if d.Desc().Kind == driver.KindFormat {
			continue
		}
		if p, ok := d.(driver.NameProber); ok && p.ProbeName(name) {
			return d, nil
		}
		if plain == nil && d.Desc().PlainNames {
			plain = d
		}
	}
	if plain == nil {
		return nil, driver.Errorf(driver.ErrInvalid, "no driver for '%s'", name)
	}
	return plain, nil
}

// schemeOf returns what is before the colon of a file name that starts with
// a protocol. A slash before the colon makes it a path.
func schemeOf(name string) (scheme, rest string, ok bool) {
	i := strings.IndexAny(name, ":/\\")
	if i <= 0 || name[i] != ':' {
		return "", name, false
	}
	if i == 1 && isWindowsDrive(name) {
		return "", name, false
	}
	return name[:i], name[i+1:], true
}

func isWindowsDrive(name string) bool {
	c := name[0] | 0x20
	return filepathIsWindows && c >= 'a' && c <= 'z'
}
