package incus

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/cowl-disk/cowl/fstree"
	"github.com/cowl-disk/cowl/incus/definition"
)

// Image is an image that is being made. One goroutine at a time uses it.
type Image struct {
	Definition *definition.Definition
	// Tree is the root file system. Generate changes it.
	Tree *fstree.Tree
	// Time is when the image is made: it is in its metadata and is that of new files. Its
	// fractions of a second are dropped.
	Time time.Time
	// Warn, where not nil, is told what is not kept or not done.
	Warn func(text string)
	// Running, where not nil, is told which generator is about to run.
	Running func(generator string)

	templates map[string]*Template // by the path in the instance
	files     map[string][]byte    // templates by the names of their files
}

// Template is a file of an instance that Incus makes of a template.
type Template struct {
	When       []string          `yaml:"when"`
	CreateOnly bool              `yaml:"create_only"`
	Template   string            `yaml:"template"`
	Properties map[string]string `yaml:"properties"`
}

// Metadata is the file metadata.yaml of an image.
type Metadata struct {
	Architecture string               `yaml:"architecture"`
	CreationDate int64                `yaml:"creation_date"` // seconds since 1970
	ExpiryDate   int64                `yaml:"expiry_date"`
	Properties   map[string]string    `yaml:"properties"`
	Templates    map[string]*Template `yaml:"templates"`
}

// New returns an image of a tree, which must not be used otherwise.
func New(d *definition.Definition, t *fstree.Tree, when time.Time) *Image {
	return &Image{Definition: d, Tree: t, Time: when.Truncate(time.Second), templates: map[string]*Template{}, files: map[string][]byte{}}
}

// Latest returns the latest time in a tree, at least one second after the beginning of
// 1970: a time for an image that depends on nothing else.
func Latest(t *fstree.Tree) time.Time {
	latest := time.Unix(1, 0)
	for _, n := range t.Root.Walk() {
		if n.ModTime.After(latest) {
			latest = n.ModTime
		}
	}
	return latest.Truncate(time.Second).UTC()
}

func (i *Image) warn(format string, args ...any) {
	if i.Warn != nil {
		i.Warn(fmt.Sprintf(format, args...))
	}
}

var periodForm = regexp.MustCompile(`(\d+)([smhdw])`)

// expiry is the time when an image expires that is good for a period such as 30d or 1w2d.
func expiry(from time.Time, period string) time.Time {
	for _, m := range periodForm.FindAllStringSubmatch(period, -1) {
		unit := map[string]int64{"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}[m[2]]
		n, err := strconv.ParseInt(m[1], 10, 64)
		if most := (math.MaxInt32 * 10) / unit; err != nil || n > most {
			n = most
		}
		from = time.Unix(from.Unix()+n*unit, 0)
	}
	return from
}

// Metadata returns what the image says of itself.
func (i *Image) Metadata() (*Metadata, error) {
	d := i.Definition
	m := &Metadata{Architecture: d.Image.Architecture, CreationDate: max(i.Time.Unix(), 1), Templates: i.templates}
	m.ExpiryDate = expiry(time.Unix(m.CreationDate, 0), d.Image.Expiry).Unix()
	m.Properties = map[string]string{"architecture": d.Image.ArchitectureMapped, "os": d.Image.Distribution, "release": d.Image.Release,
		"variant": d.Image.Variant, "serial": d.Image.Serial}
	for key, template := range map[string]string{"description": d.Image.Description, "name": d.Image.Name} {
		text, err := d.Render(template)
		if err != nil {
			return nil, fmt.Errorf("failed to render template: %w", err)
		}
		m.Properties[key] = text
	}
	return m, nil
}

// encode returns the text of metadata.yaml, in the style of distrobuilder.
func (m *Metadata) encode() ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	e.CompactSeqIndent()
	if err := e.Encode(m); err != nil {
		return nil, err
	}
	return b.Bytes(), e.Close()
}

// metadataTree has metadata.yaml and the templates.
func (i *Image) metadataTree() (*fstree.Tree, *Metadata, error) {
	m, err := i.Metadata()
	if err != nil {
		return nil, nil, fmt.Errorf("failed to create metadata: %w", err)
	}
	text, err := m.encode()
	if err != nil {
		return nil, nil, fmt.Errorf("failed to marshal yaml: %w", err)
	}
	if len(text) > maxMetadata {
		return nil, nil, fmt.Errorf("metadata.yaml has %d bytes, but Incus takes at most %d", len(text), maxMetadata)
	}
	t := fstree.New()
	t.Root.ModTime = i.Time
	put := func(path string, content []byte) {
		if err == nil {
			_, err = t.PutFile(path, content, i.Time)
		}
	}
	put("metadata.yaml", text)
	for name, content := range i.files {
		put("templates/"+name, content)
	}
	return t, m, err
}

// maxMetadata is how long a metadata.yaml may be for Incus, in bytes.
const maxMetadata = 1 << 20
