package qmp

// tokenKind is the kind of a token.
type tokenKind uint8

const (
	tokenError tokenKind = iota
	tokenLeftCurly
	tokenRightCurly
	tokenLeftSquare
	tokenRightSquare
	tokenColon
	tokenComma
	tokenInteger
	tokenFloat
	tokenKeyword
	tokenString
	tokenTooLong // a token over MaxTokenBytes, cut
	tokenNone    // no token is complete
)

// lexState is what the lexer is in the middle of.
type lexState uint8

const (
	stateStart lexState = iota
	stateRecovery
	stateDoubleQuoted
	stateDoubleQuotedEscape
	stateSingleQuoted
	stateSingleQuotedEscape
	stateZero
	stateDigits
	stateSign
	statePoint
	stateFraction
	stateExponent
	stateExponentSign
	stateExponentDigits
	stateKeyword
)

// lexer cuts bytes into tokens. Its memory is bounded by MaxTokenBytes.
type lexer struct {
	state lexState
	token []byte
	// emit takes a token; text is valid during the call.
	emit func(kind tokenKind, text []byte)
}

var structural = [256]tokenKind{
	'{': tokenLeftCurly, '}': tokenRightCurly, '[': tokenLeftSquare, ']': tokenRightSquare, ':': tokenColon, ',': tokenComma,
}

// feed takes the next bytes.
func (l *lexer) feed(p []byte) {
	for len(p) > 0 {
		if l.state == stateDoubleQuoted || l.state == stateSingleQuoted {
			n := l.plain(p)
			l.token = append(l.token, p[:n]...)
			p = p[n:]
			l.bound()
			if n > 0 {
				continue
			}
		}
		l.char(p[0])
		l.bound()
		p = p[1:]
	}
}

// plain returns how many bytes at the start of p are ordinary characters of the
// string that the lexer is in. It goes no further than the bound of a token.
func (l *lexer) plain(p []byte) int {
	quote := byte('"')
	if l.state == stateSingleQuoted {
		quote = '\''
	}
	p = p[:min(len(p), MaxTokenBytes+1-len(l.token))]
	for i, c := range p {
		if c == quote || c == '\\' || c < 0x20 || c >= 0xFE {
			return i
		}
	}
	return len(p)
}

// bound gives up a token that is too long.
func (l *lexer) bound() {
	if len(l.token) > MaxTokenBytes {
		l.emit(tokenTooLong, l.token)
		l.token = nil
		l.state = stateStart
	}
}

// char takes one byte. A byte that ends a token without being a part of it is
// looked at again in the state after that.
func (l *lexer) char(c byte) {
	for {
		next, kind, consumed := step(l.state, c)
		if consumed {
			l.token = append(l.token, c)
		}
		if kind != tokenNone {
			l.emit(kind, l.token)
		}
		if next == stateStart || next == stateRecovery {
			l.token = l.token[:0]
		}
		l.state = next
		if consumed {
			return
		}
	}
}

// reset forgets what is begun.
func (l *lexer) reset() {
	l.state, l.token = stateStart, nil
}

func digit(c byte) bool { return '0' <= c && c <= '9' }
func lower(c byte) bool { return 'a' <= c && c <= 'z' }

// step returns the state after c and the token that is complete then, tokenNone if
// there is none. consumed says that c belongs to what the lexer was in.
func step(s lexState, c byte) (next lexState, kind tokenKind, consumed bool) {
	in := func(s lexState) (lexState, tokenKind, bool) { return s, tokenNone, true }
	done := func(k tokenKind) (lexState, tokenKind, bool) { return stateStart, k, false }
	stray := func() (lexState, tokenKind, bool) { return stateRecovery, tokenError, true }
	switch s {
	case stateStart:
		switch {
		case structural[c] != 0:
			return stateStart, structural[c], true
		case c == '"':
			return in(stateDoubleQuoted)
		case c == '\'':
			return in(stateSingleQuoted)
		case c == '0':
			return in(stateZero)
		case digit(c):
			return in(stateDigits)
		case c == '-':
			return in(stateSign)
		case lower(c):
			return in(stateKeyword)
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			return in(stateStart)
		}
	case stateRecovery:
		if structural[c] != 0 || c < 0x20 && c != '\t' || c >= 0xFE {
			return stateStart, tokenNone, false
		}
		return in(stateRecovery)
	case stateDoubleQuoted, stateSingleQuoted:
		switch {
		case c == '"' && s == stateDoubleQuoted, c == '\'' && s == stateSingleQuoted:
			return stateStart, tokenString, true
		case c == '\\':
			return in(s + 1)
		case 0x20 <= c && c < 0xFE:
			return in(s)
		}
	case stateDoubleQuotedEscape, stateSingleQuotedEscape:
		if 0x20 <= c && c < 0xFE {
			return in(s - 1)
		}
	case stateZero:
		switch {
		case c == '.':
			return in(statePoint)
		case !digit(c):
			return done(tokenInteger)
		}
	case stateDigits:
		switch {
		case digit(c):
			return in(stateDigits)
		case c == 'e' || c == 'E':
			return in(stateExponent)
		case c == '.':
			return in(statePoint)
		}
		return done(tokenInteger)
	case stateSign:
		switch {
		case c == '0':
			return in(stateZero)
		case digit(c):
			return in(stateDigits)
		}
	case statePoint:
		if digit(c) {
			return in(stateFraction)
		}
	case stateFraction:
		switch {
		case digit(c):
			return in(stateFraction)
		case c == 'e' || c == 'E':
			return in(stateExponent)
		}
		return done(tokenFloat)
	case stateExponent:
		switch {
		case c == '-' || c == '+':
			return in(stateExponentSign)
		case digit(c):
			return in(stateExponentDigits)
		}
	case stateExponentSign:
		if digit(c) {
			return in(stateExponentDigits)
		}
	case stateExponentDigits:
		if digit(c) {
			return in(stateExponentDigits)
		}
		return done(tokenFloat)
	case stateKeyword:
		if lower(c) {
			return in(stateKeyword)
		}
		return done(tokenKeyword)
	}
	return stray()
}
