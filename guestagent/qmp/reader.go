package qmp

import (
	"bytes"
	"errors"
)

// The bounds of one message.
const (
	// MaxTokenBytes bounds one token and all tokens of a message, in bytes.
	MaxTokenBytes = 64 << 20
	// MaxTokens bounds the number of tokens of a message.
	MaxTokens = 2 << 20
	// MaxNesting bounds the depth of brackets and braces.
	MaxNesting = 1 << 10
)

// keepBytes is how much memory of a message's tokens is kept for the next one.
const keepBytes = 64 << 10

// Reader reads messages from a stream of bytes that comes in pieces. It is not safe
// for concurrent use.
type Reader struct {
	lexer    lexer
	handle   func(value any, err error)
	curly    int // braces that are open
	square   int // brackets that are open
	tokens   []token
	text     []byte // of all tokens
	tokenLen int    // bytes of all tokens, for the bound
}

// token is a token of the message that is being collected. Its text is a part of
// Reader.text; punctuation has none.
type token struct {
	kind       tokenKind
	start, end uint32
}

// NewReader returns a reader that calls handle for each complete message, and for
// each error with a nil value.
func NewReader(handle func(value any, err error)) *Reader {
	r := &Reader{handle: handle}
	r.lexer.emit = r.token
	return r
}

// Feed takes the next bytes of the stream. It does not keep p.
func (r *Reader) Feed(p []byte) { r.lexer.feed(p) }

// Reset forgets a message that has begun: the peer that sent it is gone.
func (r *Reader) Reset() {
	r.lexer.reset()
	r.clear()
}

// clear makes ready for the next message. Large buffers are given back.
func (r *Reader) clear() {
	r.curly, r.square, r.tokenLen = 0, 0, 0
	r.tokens, r.text = r.tokens[:0], r.text[:0]
	if cap(r.text) > keepBytes {
		r.text = nil
	}
	if cap(r.tokens) > keepBytes/12 {
		r.tokens = nil
	}
}

// end hands a value or an error over.
func (r *Reader) end(value any, err error) {
	r.clear()
	r.handle(value, err)
}

// token takes a token, and parses the message if it is complete.
func (r *Reader) token(kind tokenKind, text []byte) {
	switch kind {
	case tokenLeftCurly:
		r.curly++
	case tokenRightCurly:
		r.curly--
	case tokenLeftSquare:
		r.square++
	case tokenRightSquare:
		r.square--
	case tokenError:
		r.end(nil, errors.New("JSON parse error, stray '"+string(beforeNul(text))+"'"))
		return
	}
	switch {
	case r.tokenLen+len(text)+1 > MaxTokenBytes:
		r.end(nil, errors.New("JSON token size limit exceeded"))
		return
	case len(r.tokens)+1 > MaxTokens:
		r.end(nil, errors.New("JSON token count limit exceeded"))
		return
	case r.curly+r.square > MaxNesting:
		r.end(nil, errors.New("JSON nesting depth limit exceeded"))
		return
	}
	r.tokenLen += len(text)
	t := token{kind: kind}
	if kind > tokenComma {
		t.start = uint32(len(r.text))
		r.text = append(r.text, text...)
		t.end = uint32(len(r.text))
	}
	r.tokens = append(r.tokens, t)
	if (r.curly > 0 || r.square > 0) && r.curly >= 0 && r.square >= 0 {
		return
	}
	p := parser{tokens: r.tokens, text: r.text}
	value, err := p.value()
	r.end(value, err)
}

// beforeNul returns p up to its first NUL: QEMU's messages end there.
func beforeNul(p []byte) []byte {
	if i := bytes.IndexByte(p, 0); i >= 0 {
		return p[:i]
	}
	return p
}
