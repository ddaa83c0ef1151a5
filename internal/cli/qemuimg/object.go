package qemuimg

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/cowl-disk/cowl/opts"
)

// objects holds what --object defined, by id.
type objects struct {
	secrets map[string]string
	ids     map[string]bool
}

// objectTypes are the types of object and their parameters.
var objectTypes = map[string][]string{
	"secret":         {"data", "file", "format", "iv", "keyid"},
	"tls-creds-anon": {"dir", "endpoint", "priority", "verify-peer"},
	"tls-creds-psk":  {"dir", "endpoint", "priority", "username", "verify-peer"},
	"tls-creds-x509": {"dir", "endpoint", "passwordid", "priority", "sanity-check", "verify-peer"},
}

var identifier = regexp.MustCompile(`^[A-Za-z][-A-Za-z0-9._]*$`)

// object defines an object.
func (c *call) object(def string) error {
	if def == "help" || def == "?" {
		fmt.Fprintln(c.Stdout, "List of user creatable objects:")
		for _, name := range sortedKeys(objectTypes) {
			fmt.Fprintln(c.Stdout, "  "+name)
		}
		return errDone
	}
	d := opts.Dict{}
	var err error
	if strings.HasPrefix(def, "{") {
		d, err = opts.ParseJSON(def)
	} else {
		err = d.ParseList(def, "qom-type")
	}
	if err != nil {
		return err
	}
	typ, ok := d.Take("qom-type")
	if !ok {
		return errors.New("Parameter 'qom-type' is missing")
	}
	params, ok := objectTypes[typ]
	if !ok {
		return fmt.Errorf("Parameter 'qom-type' does not accept value '%s'", typ)
	}
	if _, help := d["help"]; help {
		fmt.Fprintf(c.Stdout, "%s options:\n", typ)
		for _, p := range params {
			fmt.Fprintf(c.Stdout, "  %s=<string>\n", p)
		}
		return errDone
	}
	id, ok := d.Take("id")
	switch {
	case !ok:
		return errors.New("Parameter 'id' is missing")
	case !identifier.MatchString(id):
		return errors.New("Parameter 'id' expects an identifier\nIdentifiers consist of letters, digits, '-', '.', '_', starting with a letter.")
	case c.objects.ids[id]:
		return fmt.Errorf("attempt to add duplicate property '%s' to object (type 'container')", id)
	}
	for _, k := range d.Keys() {
		if !slices.Contains(params, k) {
			return fmt.Errorf("Parameter '%s' is unexpected", k)
		}
	}
	if c.objects.ids == nil {
		c.objects.ids = map[string]bool{}
	}
	c.objects.ids[id] = true
	if typ == "secret" {
		return c.secret(id, d)
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// maxSecret bounds what is read from the file of a secret.
const maxSecret = 1 << 20

// secret reads a secret and keeps it for formats that are encrypted.
func (c *call) secret(id string, d opts.Dict) error {
	data, hasData := d.Take("data")
	file, hasFile := d.Take("file")
	switch {
	case hasData && hasFile:
		return errors.New("'file' and 'data' are mutually exclusive")
	case !hasData && !hasFile:
		return errors.New("Either 'file' or 'data' must be provided")
	case hasFile:
		st, err := os.Stat(file)
		if err == nil && st.Size() > maxSecret {
			return fmt.Errorf("Unable to read %s: larger than %d bytes", file, maxSecret)
		}
		content, err := os.ReadFile(file)
		if err != nil {
			var pe *os.PathError
			if errors.As(err, &pe) {
				err = fmt.Errorf("Failed to open file “%s”: %w", file, pe.Err)
			}
			return fmt.Errorf("Unable to read %s: %w", file, err)
		}
		data = string(content)
	}
	if _, ok := d["keyid"]; ok {
		return errors.New("encrypted secrets (keyid) are not supported yet")
	}
	switch format := d.String("format"); format {
	case "", "raw":
		if !utf8.ValidString(data) {
			return errors.New("Data from secret is not valid UTF-8")
		}
	case "base64":
		raw, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(data), ""))
		if err != nil {
			return errors.New("Base64 data '" + data + "' is not valid")
		}
		data = string(raw)
	default:
		return fmt.Errorf("Parameter 'format' does not accept value '%s'", format)
	}
	if c.objects.secrets == nil {
		c.objects.secrets = map[string]string{}
	}
	c.objects.secrets[id] = data
	return nil
}
