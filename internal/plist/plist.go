// Package plist reads the XML property lists of Apple's disk image bundles (plist(5)).
package plist

import (
	"encoding/xml"
	"errors"
	"io"
	"strconv"

	"github.com/cowl-disk/cowl/block/driver"
)

// Limits for lists of strangers: those of disk images have five keys in one dictionary.
const (
	maxDepth  = 16
	maxKeys   = 1000
	maxText   = 4096
	maxTokens = 100_000
)

// Dict is the text of the scalars of a dictionary, by their key.
type Dict map[string]string

// Read returns the strings and integers of the dictionary that a property list is. What is
// nested in it is passed over. The caller bounds the length of r; entities other than
// those of XML itself are refused, so that nothing expands.
func Read(r io.Reader) (Dict, error) {
	d := xml.NewDecoder(r)
	out := Dict{}
	var path []string
	var key, text string
	for range maxTokens {
		t, err := d.RawToken()
		if errors.Is(err, io.EOF) && len(path) == 0 {
			return out, nil
		}
		if err != nil {
			return nil, damaged(err)
		}
		switch t := t.(type) {
		case xml.StartElement:
			if len(path) == maxDepth {
				return nil, driver.Errorf(driver.ErrBudget, "the property list is nested deeper than %d elements", maxDepth)
			}
			path, text = append(path, t.Name.Local), ""
		case xml.CharData:
			if len(path) != 3 {
				break
			}
			if text += string(t); len(text) > maxText {
				return nil, driver.Errorf(driver.ErrBudget, "the property list has a text of more than %d bytes", maxText)
			}
		case xml.EndElement:
			if len(path) == 0 || path[len(path)-1] != t.Name.Local {
				return nil, damaged(errors.New("elements do not match"))
			}
			if len(path) == 3 && path[0] == "plist" && path[1] == "dict" {
				switch {
				case path[2] == "key":
					key = text
				case key != "" && (path[2] == "string" || path[2] == "integer"):
					out[key] = text
					key = ""
				default:
					key = ""
				}
			}
			path = path[:len(path)-1]
		}
		if len(out) > maxKeys {
			break
		}
	}
	return nil, driver.Errorf(driver.ErrBudget, "the property list has too many elements")
}

func damaged(err error) error {
	return driver.Errorf(driver.ErrCorrupt, "the property list is damaged: %w", err)
}

// Int returns an integer, which must be there and not be negative.
func (d Dict) Int(key string) (int64, error) {
	v, ok := d[key]
	if !ok {
		return 0, driver.Errorf(driver.ErrCorrupt, "the property list has no '%s'", key)
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 {
		return 0, driver.Errorf(driver.ErrCorrupt, "the property list says '%.40s' for '%s', which is no size", v, key)
	}
	return n, nil
}
