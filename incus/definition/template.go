package definition

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/flosch/pongo2/v6"
	"go.yaml.in/yaml/v3"
)

const (
	// maxTemplate and maxRendered bound a template and what it makes, in bytes. The parser
	// of templates is recursive.
	maxTemplate = 128 << 10
	maxRendered = 4 << 20
	// maxRounds is how often a text is rendered that is a template again.
	maxRounds = 16
)

var errTemplate = errors.New("template")

// noFiles refuses to load templates from files.
type noFiles struct{}

func (noFiles) Abs(_, name string) string { return name }
func (noFiles) Get(name string) (io.Reader, error) {
	return nil, fmt.Errorf("templates of definitions read no files: %q", name)
}

// bounded keeps what is written up to a number of bytes. The library does not look at
// errors of its writer, so that they are kept.
type bounded struct {
	bytes.Buffer
	err error
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxRendered {
		b.err = fmt.Errorf("%w: the text becomes longer than %d bytes", errTemplate, maxRendered)
	}
	if b.err != nil {
		return 0, b.err
	}
	return b.Buffer.Write(p)
}

// Render returns what the template makes of the definition. What it makes is rendered
// again while it looks like a template.
func (d *Definition) Render(template string) (string, error) {
	if !isTemplate(template) && !strings.Contains(template, "{#") {
		return template, nil
	}
	text, err := yaml.Marshal(d)
	if err != nil {
		return "", err
	}
	values := map[string]any{}
	if err := yaml.Unmarshal(text, &values); err != nil {
		return "", err
	}
	for range maxRounds {
		if template, err = render("{% autoescape off %}"+template+"{% endautoescape %}", values); err != nil {
			return "", err
		}
		if !isTemplate(template) {
			return template, nil
		}
	}
	return "", fmt.Errorf("%w: still a template after it was rendered %d times: %.60q", errTemplate, maxRounds, template)
}

// RenderOnce renders a template that sees the values, and escapes what HTML does not take
// as it is, as distrobuilder's generator "template" does.
func RenderOnce(template string, values map[string]any) (string, error) {
	return render(template, values)
}

func isTemplate(s string) bool { return strings.Contains(s, "{{") || strings.Contains(s, "{%") }

func render(template string, values map[string]any) (out string, err error) {
	if len(template) > maxTemplate {
		return "", fmt.Errorf("%w: longer than %d bytes", errTemplate, maxTemplate)
	}
	if err := cost(template, values); err != nil {
		return "", err
	}
	// the library's own mistakes must not end the program
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errTemplate, p)
		}
	}()
	set := pongo2.NewSet("definition", noFiles{})
	for _, tag := range []string{"include", "extends", "import", "ssi", "lorem", "set", "with", "macro"} {
		err = errors.Join(err, set.BanTag(tag))
	}
	for _, filter := range []string{"ljust", "rjust", "center", "get_digit", "make_list", "stringformat", "floatformat", "random"} {
		err = errors.Join(err, set.BanFilter(filter))
	}
	if err != nil {
		return "", err
	}
	t, err := set.FromString(template)
	if err != nil {
		return "", fmt.Errorf("%w: %w", errTemplate, err)
	}
	b := &bounded{}
	if err := t.ExecuteWriterUnbuffered(values, b); err != nil {
		return "", fmt.Errorf("%w: %w", errTemplate, err)
	}
	return b.String(), b.err
}
