package qmp

import (
	"errors"
	"math"
	"strconv"
)

// maxParseError is where QEMU cuts the text of an error of the parser, in bytes.
const maxParseError = 1023

// parser makes a value of tokens.
type parser struct {
	tokens []token
	text   []byte
}

func parseError(msg string) error {
	return errors.New("JSON parse error, " + msg[:min(len(msg), maxParseError)])
}

var errPremature = parseError("premature EOI")

func (p *parser) next() (token, error) {
	if len(p.tokens) == 0 {
		return token{}, errPremature
	}
	t := p.tokens[0]
	p.tokens = p.tokens[1:]
	return t, nil
}

func (p *parser) peek() tokenKind {
	if len(p.tokens) == 0 {
		return tokenNone
	}
	return p.tokens[0].kind
}

func (p *parser) value() (any, error) {
	t, err := p.next()
	if err != nil {
		return nil, err
	}
	text := p.text[t.start:t.end]
	switch t.kind {
	case tokenLeftCurly:
		return p.object()
	case tokenLeftSquare:
		return p.array()
	case tokenString:
		return unquote(text)
	case tokenInteger:
		return integer(string(text)), nil
	case tokenFloat:
		return float(string(text)), nil
	case tokenKeyword:
		switch string(text) {
		case "true":
			return true, nil
		case "false":
			return false, nil
		case "null":
			return nil, nil
		}
		return nil, parseError("invalid keyword '" + string(text) + "'")
	}
	return nil, parseError("expecting value")
}

// object parses what follows a left brace.
func (p *parser) object() (any, error) {
	d := &Dict{}
	if p.peek() == tokenRightCurly {
		_, err := p.next()
		return d, err
	}
	for {
		if err := p.pair(d); err != nil {
			return nil, err
		}
		t, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case t.kind == tokenRightCurly:
			return d, nil
		case t.kind != tokenComma:
			return nil, parseError("expected separator in dict")
		}
	}
}

func (p *parser) pair(d *Dict) error {
	k, err := p.value()
	if err != nil {
		return err
	}
	key, ok := k.(string)
	if !ok {
		return parseError("key is not a string in object")
	}
	t, err := p.next()
	if err != nil {
		return err
	}
	if t.kind != tokenColon {
		return parseError("missing : in object pair")
	}
	v, err := p.value()
	if err != nil {
		return err
	}
	if _, ok := d.Get(key); ok {
		return parseError("duplicate key")
	}
	d.Put(key, v)
	return nil
}

// array parses what follows a left bracket.
func (p *parser) array() (any, error) {
	list := []any{}
	if p.peek() == tokenRightSquare {
		_, err := p.next()
		return list, err
	}
	for {
		v, err := p.value()
		if err != nil {
			return nil, err
		}
		list = append(list, v)
		t, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case t.kind == tokenRightSquare:
			return list, nil
		case t.kind != tokenComma:
			return nil, parseError("expected separator in list")
		}
	}
}

// integer returns an int64, a uint64, or a float64 for what these do not hold.
func integer(s string) any {
	if i, err := strconv.ParseInt(s, 10, 64); err == nil {
		return i
	}
	if u, err := strconv.ParseUint(s, 10, 64); err == nil {
		return u
	}
	return float(s)
}

// float is strtod: what is too large is infinite.
func float(s string) float64 {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return math.NaN() // not reached: the lexer lets numbers through only
	}
	return f
}

var escapes = [256]byte{'"': '"', '\'': '\'', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unquote decodes a string token.
func unquote(quoted []byte) (any, error) {
	s := quoted[1 : len(quoted)-1]
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); {
		c := s[i]
		switch {
		case c != '\\' && c < 0x80:
			out = append(out, c)
			i++
		case c != '\\':
			r, n := decodeRune(s[i:])
			if r < 0 {
				return nil, parseError("invalid UTF-8 sequence in string")
			}
			out = append(out, s[i:i+n]...)
			i += n
		case escapes[s[i+1]] != 0:
			out = append(out, escapes[s[i+1]])
			i += 2
		case s[i+1] == 'u':
			r, n := unescape(s[i:])
			var ok bool
			if out, ok = appendRune(out, r); !ok {
				// The six bytes of the escape, or up to the closing quote.
				shown := quoted[1+i : min(1+i+6, len(quoted))]
				return nil, parseError(string(shown) + " is not a valid Unicode character")
			}
			i += n
		default:
			return nil, parseError("invalid escape sequence in string")
		}
	}
	return string(out), nil
}

// unescape decodes "\uXXXX", or two of them for a surrogate pair. r is -1 if it is
// no character.
func unescape(s []byte) (r rune, n int) {
	r = hex4(s[2:])
	if 0xD800 <= r && r <= 0xDBFF && len(s) > 7 && s[6] == '\\' && s[7] == 'u' {
		if low := hex4(s[8:]); 0xDC00 <= low && low <= 0xDFFF {
			return 0x10000 + (r&0x3FF)<<10 + low&0x3FF, 12
		}
		return -1, 6
	}
	return r, 6
}

// hex4 decodes four hexadecimal digits, and returns -1 if they are not there.
func hex4(s []byte) rune {
	if len(s) < 4 {
		return -1
	}
	v, err := strconv.ParseUint(string(s[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(v)
}
