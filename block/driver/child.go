package driver

import (
	"slices"
	"strconv"
)

// Use says how a node uses a child. It decides which permissions the block layer
// asks for, whether the format of the child is probed, and which questions about
// the node the child answers.
type Use uint8

// The uses of a child.
const (
	// UseMetadata: the child holds metadata, perhaps guest data as well. Nobody
	// else may write it while it is open.
	UseMetadata Use = iota
	// UseData: the child holds guest data only (an extent, a member of a quorum).
	UseData
	// UseFiltered: the node passes the child through: it has the same contents,
	// at the same offsets for a filter. Permissions are those of the node.
	UseFiltered
	// UseBacking: the child answers for what the node does not hold.
	UseBacking
)

// ChildDesc declares a role that children of a driver's nodes have.
type ChildDesc struct {
	// Role is the prefix of the child's options ("file", "data-file"), and of
	// those of its members if List is set ("children.0", "children.1" …).
	Role string
	Use  Use
	// List: there may be several, numbered from 0. A list that is not Optional
	// has one member at least.
	List     bool
	Optional bool
	// ByDriver: the driver opens the child itself, by Env.OpenChild, once it has
	// read the image. The block layer opens all others before Driver.Open.
	ByDriver bool
	// NameOption is an option whose value names the child as a file name given
	// by the user ("nbd://…", "json:…"), where "ROLE.filename" is a plain name.
	NameOption string
}

// Child returns the declaration of a role, nil if there is none. A member of a
// list ("extents.3") has that of the list.
func (d *Desc) Child(role string) *ChildDesc {
	for i := range d.Children {
		c := &d.Children[i]
		if c.Role == role || c.List && isMember(role, c.Role) {
			return c
		}
	}
	return nil
}

// isMember says whether role is "LIST.N".
func isMember(role, list string) bool {
	if len(role) <= len(list)+1 || role[:len(list)] != list || role[len(list)] != '.' {
		return false
	}
	_, err := strconv.ParseUint(role[len(list)+1:], 10, 31)
	return err == nil
}

// Primary returns the declaration of the child that a file name given for the
// node names, nil if the driver opens no child by name.
func (d *Desc) Primary() *ChildDesc {
	i := slices.IndexFunc(d.Children, func(c ChildDesc) bool { return !c.ByDriver && !c.List && c.Use != UseBacking })
	if i < 0 {
		return nil
	}
	return &d.Children[i]
}

// PassesThrough returns the role of the child that the node passes through, "" if
// there is none: raw images and filters have one.
func (d *Desc) PassesThrough() string {
	for _, c := range d.Children {
		if c.Use == UseFiltered {
			return c.Role
		}
	}
	return ""
}

// HasBacking says whether images of this driver may have a backing file.
func (d *Desc) HasBacking() bool {
	return slices.ContainsFunc(d.Children, func(c ChildDesc) bool { return c.Use == UseBacking })
}

// OpenedChild is a child that the block layer has opened for a driver.
type OpenedChild struct {
	Role string
	Storage
}

// Child returns the child with a role, nil if it was not opened.
func (r *OpenRequest) Child(role string) Storage {
	for _, c := range r.Children {
		if c.Role == role {
			return c.Storage
		}
	}
	return nil
}

// Members returns the children of a list, in the order of their numbers.
func (r *OpenRequest) Members(list string) []OpenedChild {
	var out []OpenedChild
	for _, c := range r.Children {
		if isMember(c.Role, list) {
			out = append(out, c)
		}
	}
	return out
}
