package opts

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// MaxJSONDepth bounds the nesting of json: names.
const MaxJSONDepth = 64

// errDepth is returned for JSON nested deeper than MaxJSONDepth.
var errDepth = jsonError("JSON is nested too deeply")

func jsonError(format string, args ...any) error {
	return message.Errorf(nil, "could not parse the JSON options: %w", message.Errorf(nil, format, args...))
}

// ParseJSON reads a JSON object as a flattened Dict. Strings may be in single
// quotes, too, as with QEMU.
func ParseJSON(s string) (Dict, error) {
	dec := json.NewDecoder(strings.NewReader(doubleQuotes(s)))
	dec.UseNumber()
	tok, err := dec.Token()
	switch {
	case err == io.EOF:
		return nil, jsonError("expecting a JSON value")
	case err != nil:
		return nil, syntaxError(err)
	case tok != json.Delim('{'):
		return nil, message.Errorf(nil, "invalid JSON object given")
	}
	d := Dict{}
	if err := flatten(dec, d, "", json.Delim('{'), 0); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, jsonError("expecting at most one JSON value")
	}
	return d, nil
}

func syntaxError(err error) error {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return jsonError("JSON parse error, %w", err)
}

// doubleQuotes turns strings in single quotes into strings in double quotes, and
// the escape of a single quote, which JSON does not have, into the quote.
func doubleQuotes(s string) string {
	if !strings.Contains(s, "'") {
		return s
	}
	var b strings.Builder
	quote := byte(0) // of the string around i
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case quote == 0 && (c == '"' || c == '\''):
			quote = c
			b.WriteByte('"')
		case quote != 0 && c == quote:
			quote = 0
			b.WriteByte('"')
		case quote == '\'' && c == '"':
			b.WriteString(`\"`)
		case quote != 0 && c == '\\' && i+1 < len(s):
			i++
			if s[i] != '\'' {
				b.WriteByte('\\')
			}
			b.WriteByte(s[i])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// flatten reads the rest of the object or list that open began.
func flatten(dec *json.Decoder, d Dict, prefix string, open json.Delim, depth int) error {
	if depth > MaxJSONDepth {
		return errDepth
	}
	for i := 0; dec.More(); i++ {
		key := strconv.Itoa(i)
		if open == '{' {
			tok, err := dec.Token()
			if err != nil {
				return syntaxError(err)
			}
			key = tok.(string)
		}
		if prefix != "" {
			key = prefix + "." + key
		}
		tok, err := dec.Token()
		if err != nil {
			return syntaxError(err)
		}
		if open, ok := tok.(json.Delim); ok {
			if err := flatten(dec, d, key, open, depth+1); err != nil {
				return err
			}
			continue
		}
		if _, twice := d[key]; twice {
			return jsonError("JSON parse error, duplicate key")
		}
		d[key] = tok
	}
	if _, err := dec.Token(); err != nil {
		return syntaxError(err)
	}
	return nil
}
