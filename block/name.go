package block

import (
	"bytes"
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/opts"
)

// runtime says whether an option changes how an image is used, not what its content
// is. Such options do not appear in names.
func (img *Image) runtime(key string) bool {
	o := img.desc.OpenOptions.Lookup(key)
	return o != nil && o.Runtime
}

// formatName names a format node: by the file name of its child where that
// opens the same again, else as json:{…}.
func formatName(img, file *Image, own, backing opts.Dict, noBacking bool) string {
	strong := len(backing) > 0 || noBacking
	for k := range own {
		role, _, dotted := strings.Cut(k, ".")
		if c := img.desc.Child(role); dotted && c != nil && c.ByDriver {
			continue // QEMU does not count a data file that was given
		}
		if !img.runtime(k) {
			strong = true
		}
	}
	if file.format != nil {
		// A format on a format: the name of the lower one would open that alone.
		strong = true
	}
	if !strong && !strings.HasPrefix(file.name, "json:") {
		return file.name
	}
	d := opts.Dict{}
	for k, v := range own {
		d[k] = v
	}
	for k, v := range backing {
		d["backing."+k] = v
	}
	if noBacking {
		d["backing"] = nil
	}
	return jsonName(img, d)
}

// jsonName writes the options of a node and its children as a json: name. Options of
// the node have their dotted names; those of a child are an object.
func jsonName(img *Image, d opts.Dict) string {
	tree := map[string]any{"driver": img.desc.Name}
	for k, v := range d {
		path := []string{k}
		if role, _, dotted := strings.Cut(k, "."); dotted && img.desc.Child(role) != nil {
			path = strings.Split(k, ".")
		}
		if !img.runtime(k) {
			place(tree, path, v)
		}
	}
	for _, c := range img.children {
		if desc := img.desc.Child(c.Role); desc != nil && !desc.ByDriver {
			place(tree, strings.Split(c.Role, "."), childName(c.Image))
		}
	}
	var b bytes.Buffer
	if err := writeJSON(&b, tree); err != nil {
		return "json:{}"
	}
	return "json:" + b.String()
}

// childName is the value of a child in the json: name of its parent.
func childName(child *Image) any {
	name := child.name
	if child.format != nil && !strings.HasPrefix(name, "json:") {
		// The name of a format alone would open what probing finds.
		name = jsonName(child, nil)
	}
	if rest, ok := strings.CutPrefix(name, "json:"); ok {
		return json.RawMessage(rest)
	}
	return map[string]any{"driver": child.desc.Name, "filename": name}
}

// place puts a value into a tree of maps.
func place(tree map[string]any, path []string, v any) {
	for _, p := range path[:len(path)-1] {
		next, ok := tree[p].(map[string]any)
		if !ok {
			next = map[string]any{}
			tree[p] = next
		}
		tree = next
	}
	tree[path[len(path)-1]] = v
}

// writeJSON writes a tree in QEMU's order of keys, which callers compare as text.
// Maps whose keys are 0, 1, 2 … are lists.
func writeJSON(b *bytes.Buffer, v any) error {
	tree, ok := v.(map[string]any)
	if !ok {
		text, err := json.Marshal(v)
		b.Write(text)
		return err
	}
	list := len(tree) > 0
	for i := range len(tree) {
		_, there := tree[strconv.Itoa(i)]
		list = list && there
	}
	open, end := "{", "}"
	keys := slices.SortedFunc(maps.Keys(tree), func(a, b string) int {
		return cmp.Or(cmp.Compare(bucket(a), bucket(b)), cmp.Compare(a, b))
	})
	if list {
		open, end = "[", "]"
		for i := range keys {
			keys[i] = strconv.Itoa(i)
		}
	}
	b.WriteString(open)
	for i, k := range keys {
		if i > 0 {
			b.WriteByte(',')
		}
		if !list {
			if err := writeJSON(b, k); err != nil {
				return err
			}
			b.WriteByte(':')
		}
		if err := writeJSON(b, tree[k]); err != nil {
			return err
		}
	}
	b.WriteString(end)
	return nil
}

// bucket is where QEMU's dictionaries keep a key; they are written bucket by bucket.
func bucket(key string) uint32 {
	const buckets = 512
	h := uint32(0x238F13AF) * uint32(len(key))
	for i := range len(key) {
		h += uint32(key[i]) << (i * 5 % 24)
	}
	return (1103515243*h + 12345) % buckets
}
