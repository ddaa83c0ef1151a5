package definition

import (
	"fmt"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Type is a kind of image.
type Type string

// The kinds of images.
const (
	Container Type = "container"
	VMImage   Type = "vm"
)

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *Type) UnmarshalYAML(n *yaml.Node) error {
	var text string
	if err := n.Decode(&text); err != nil {
		return err
	}
	if *t = Type(text); *t != Container && *t != VMImage {
		return fmt.Errorf("line %d: invalid filter type %q", n.Line, text)
	}
	return nil
}

// Filter says for which images something is. An empty list is for all, but see Accept.
type Filter struct {
	Releases      []string `yaml:"releases,omitempty"`
	Architectures []string `yaml:"architectures,omitempty"` // as the distribution names them
	Variants      []string `yaml:"variants,omitempty"`
	Types         []Type   `yaml:"types,omitempty"`
}

// Accept says which lists of types count when a step of the work looks at the parts of a
// definition.
type Accept uint8

// What a step accepts.
const (
	// Untyped accepts parts that name no types.
	Untyped Accept = 1 << iota
	// Typed accepts parts whose types have that of the image among them.
	Typed
)

// For reports whether something with this filter is for the image of the definition.
func (d *Definition) For(f Filter, a Accept) bool {
	in := func(list []string, s string) bool { return len(list) == 0 || slices.Contains(list, s) }
	if !in(f.Releases, d.Image.Release) || !in(f.Architectures, d.Image.ArchitectureMapped) || !in(f.Variants, d.Image.Variant) {
		return false
	}
	if len(f.Types) == 0 {
		return a&Untyped != 0
	}
	return a&Typed != 0 && slices.Contains(f.Types, d.Targets.Type)
}

// ActionsFor returns the actions of a trigger that are for the image, with templates
// rendered.
func (d *Definition) ActionsFor(trigger string, a Accept) ([]Action, error) {
	var list []Action
	for _, action := range d.Actions {
		if action.Trigger != trigger || !d.For(action.Filter, a) {
			continue
		}
		if action.Pongo {
			var err error
			if action.Action, err = d.Render(action.Action); err != nil {
				return nil, fmt.Errorf("failed to render action: %w", err)
			}
		}
		list = append(list, action)
	}
	return list, nil
}
