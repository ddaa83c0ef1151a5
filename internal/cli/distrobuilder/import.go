package distrobuilder

import (
	"fmt"

	"github.com/cowl-disk/cowl/incus"
	"github.com/cowl-disk/cowl/incus/client"
)

// importImage gives the image to the server of this machine, and a name where one was
// asked for.
func (m *imaging) importImage(image *incus.Image, r *incus.Result) error {
	i := client.Image{VM: r.VM, Fingerprint: r.Fingerprint}
	for _, f := range r.Files {
		i.Files = append(i.Files, f.Path)
	}
	if m.alias != "" {
		for _, t := range []struct {
			template string
			text     *string
		}{{m.alias, &i.Alias}, {image.Definition.Image.Description, &i.Description}} {
			var err error
			if *t.text, err = image.Definition.Render(t.template); err != nil {
				return fmt.Errorf("failed to render %q: %w", t.template, err)
			}
		}
	}
	c := client.New(client.Socket(m.Getenv))
	defer c.Close()
	sent, err := c.Import(m.ctx, i)
	if err != nil {
		return fmt.Errorf("%w (the image is in %s)", err, r.Files[0].Path)
	}
	if !sent {
		m.Program.warn("the server has an image with the fingerprint " + r.Fingerprint + " already")
	}
	return nil
}
