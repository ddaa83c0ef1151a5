package incus

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

// Generate runs the generators of the files that are for the image.
func (i *Image) Generate() error {
	return i.run(definition.Untyped|definition.Typed, func(string) bool { return true })
}

// GenerateFiles runs those that only change files and name no types, for a root file
// system that becomes no image.
func (i *Image) GenerateFiles() error {
	return i.run(definition.Untyped, func(name string) bool { return name == "dump" || name == "copy" || name == "remove" })
}

func (i *Image) run(a definition.Accept, wanted func(generator string) bool) error {
	for _, f := range i.Definition.Files {
		if !i.Definition.For(f.Filter, a) || !wanted(strings.TrimSpace(f.Generator)) {
			continue
		}
		if i.Running != nil {
			i.Running(f.Generator)
		}
		if err := i.generate(f); err != nil {
			return fmt.Errorf("failed to create Incus data: %w", err)
		}
	}
	return nil
}

func (i *Image) generate(f definition.File) error {
	if f.Pongo {
		for _, field := range []*string{&f.Content, &f.Path, &f.Source} {
			text, err := i.Definition.Render(*field)
			if err != nil { // as distrobuilder: the text stays
				i.warn("generator %s: %q stays as it is: %v", f.Generator, f.Path, err)
				continue
			}
			*field = text
		}
	}
	switch strings.TrimSpace(f.Generator) {
	case "dump":
		return i.dump(f)
	case "copy":
		return i.copyFiles(f)
	case "remove":
		if strings.Trim(f.Path, "/.") == "" {
			return fmt.Errorf("generator remove: the path %q is the whole root file system", f.Path)
		}
		i.Tree.Delete(f.Path, i.Time)
		return nil
	case "template":
		return i.template(f)
	case "hostname":
		return i.hostname(f)
	case "hosts":
		return i.hosts(f)
	case "cloud-init":
		return i.cloudInit(f)
	case "incus-agent":
		return i.agent()
	case "fstab":
		return i.fstab()
	}
	return fmt.Errorf("generator %q is not supported", f.Generator)
}

// line ends a text with a line's end.
func line(text string) string {
	if strings.HasSuffix(text, "\n") {
		return text
	}
	return text + "\n"
}

func (i *Image) dump(f definition.File) error {
	n, err := i.Tree.PutFile(f.Path, []byte(line(f.Content)), i.Time)
	if err != nil {
		return fmt.Errorf("failed to create file %q: %w", f.Path, err)
	}
	return i.access(n, f)
}

// access gives a file the mode and the owner that the definition names.
func (i *Image) access(n *fstree.Node, f definition.File) error {
	if f.Mode != "" {
		mode, err := strconv.ParseUint(f.Mode, 8, 16)
		if err != nil || mode > 0o7777 {
			return fmt.Errorf("failed to parse file mode: %q is no octal number up to 7777", f.Mode)
		}
		n.Mode = uint16(mode)
	}
	for _, o := range []struct {
		name, table string
		id          *uint32
	}{{f.UID, "/etc/passwd", &n.UID}, {f.GID, "/etc/group", &n.GID}} {
		if o.name == "" {
			continue
		}
		id, err := i.account(o.name, o.table)
		if err != nil {
			return err
		}
		*o.id = id
	}
	return nil
}

// account returns the number of a user or a group by its number or its name in a table of
// the root file system.
func (i *Image) account(name, table string) (uint32, error) {
	if id, err := strconv.ParseUint(name, 10, 32); err == nil {
		return uint32(id), nil
	}
	text, err := i.Tree.ReadFile(table, 4<<20)
	if err != nil {
		return 0, fmt.Errorf("look up %q: %w", name, err)
	}
	for l := range strings.Lines(string(text)) {
		if fields := strings.Split(strings.TrimSuffix(l, "\n"), ":"); len(fields) > 2 && fields[0] == name {
			id, err := strconv.ParseUint(fields[2], 10, 32)
			if err != nil {
				return 0, fmt.Errorf("%s: the number of %q: %w", table, name, err)
			}
			return uint32(id), nil
		}
	}
	return 0, fmt.Errorf("%s of the root file system has no %q", table, name)
}

// exists reports whether something is at a path, a link that leads nowhere included.
func (i *Image) exists(path string) bool {
	path = strings.TrimRight(path, "/")
	j := strings.LastIndexByte(path, '/')
	_, _, dir, err := i.Tree.Find(path[:j+1])
	return err == nil && dir != nil && dir.Kind == fstree.Dir && dir.Child(path[j+1:]) != nil
}

// addTemplate adds a template of the instance's file at path.
func (i *Image) addTemplate(path, name, content string, properties map[string]string, when []string) error {
	if strings.ContainsAny(name, "/\x00") || strings.Trim(name, ".") == "" {
		return fmt.Errorf("%q is no name for a template", name)
	}
	if len(when) == 0 {
		when = []string{"create", "copy"}
	}
	i.files[name] = []byte(content)
	i.templates[path] = &Template{When: when, Template: name, Properties: properties}
	return nil
}

func (i *Image) template(f definition.File) error {
	content := line(f.Content)
	if f.Pongo {
		var err error
		if content, err = definition.RenderOnce(content, map[string]any{"incus": i.Definition.Targets.Incus}); err != nil {
			return fmt.Errorf("failed to execute template: %w", err)
		}
	}
	return i.addTemplate(f.Path, f.Name+".tpl", content, f.Template.Properties, f.Template.When)
}

func (i *Image) hostname(f definition.File) error {
	if !i.exists(f.Path) {
		return nil
	}
	return i.addTemplate(f.Path, "hostname.tpl", "{{ container.name }}\n", f.Template.Properties, f.Template.When)
}

func (i *Image) hosts(f definition.File) error {
	if !i.exists(f.Path) {
		return nil
	}
	content, err := i.Tree.ReadFile(f.Path, 1<<20)
	if err != nil {
		return fmt.Errorf("failed to read file %q: %w", f.Path, err)
	}
	const name = "{{ container.name }}"
	text := strings.ReplaceAll(string(content), "distrobuilder", name)
	if !strings.Contains(text, name) {
		text = "127.0.1.1\t" + name + "\n" + text
	}
	return i.addTemplate(f.Path, "hosts.tpl", text, f.Template.Properties, f.Template.When)
}

func (i *Image) fstab() error {
	kind, options := "ext4", "defaults"
	if i.Definition.Targets.Incus.VM.Filesystem == "btrfs" {
		kind, options = "btrfs", "defaults,subvol=@"
	}
	_, err := i.Tree.PutFile("/etc/fstab", fmt.Appendf(nil, "LABEL=rootfs  /         %s  %s  0 0\nLABEL=UEFI    /boot/efi vfat  defaults  0 0\n", kind, options), i.Time)
	return err
}
