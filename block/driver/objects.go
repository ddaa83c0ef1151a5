package driver

import (
	"strings"

	"github.com/cowl-disk/cowl/opts"
)

// Objects are what options refer to by id: secrets, TLS credentials, groups of
// throttled nodes and whatever else is defined beside the images. It is safe for use
// by several goroutines.
type Objects interface {
	// Object returns the object with an id, nil if there is none.
	Object(id string) Object
}

// Object is one of Objects. FindObject looks one up by id and type.
type Object interface {
	// Kind says what it is, for messages: "a secret", "TLS credentials".
	Kind() string
}

// FindObject returns the object with an id, which must be of type T. objects may be
// nil.
func FindObject[T Object](objects Objects, id string) (T, error) {
	var none T
	if objects != nil {
		switch o := objects.Object(id).(type) {
		case nil:
		case T:
			return o, nil
		default:
			return none, Errorf(ErrInvalid, "object with id '%s' is not %s", id, none.Kind())
		}
	}
	return none, Errorf(ErrInvalid, "no %s with id '%s'", strings.TrimPrefix(strings.TrimPrefix(none.Kind(), "a "), "an "), id)
}

// Secret is a password or a key. It must not be changed.
type Secret []byte

// Kind implements Object.
func (Secret) Kind() string { return "a secret" }

// Secrets are Objects that hold nothing but secrets, by id.
type Secrets map[string]string

// Object implements Objects.
func (s Secrets) Object(id string) Object {
	text, ok := s[id]
	if !ok {
		return nil
	}
	return Secret(text)
}

// Defaults are options that disks of a driver have where nothing else is said. Their id is
// "DRIVER/NAME", which no object has that a user defines; the driver says what NAME is.
type Defaults opts.Dict

// Kind implements Object.
func (Defaults) Kind() string { return "default options" }

// TLSCreds says where TLS credentials are and what they are for. What was read from
// Dir to check them is not kept: a user of the credentials reads the files again.
type TLSCreds struct {
	Type       string // "x509", "psk" or "anon"
	Server     bool   // for listening, not for connecting
	Dir        string // where the files are
	VerifyPeer bool   // refuse peers whose identity cannot be verified
	Username   string // psk
	PasswordID string // x509: id of the secret that decrypts the private key, or ""
	Priority   string // a priority string as GnuTLS has them, or ""
}

// Kind implements Object.
func (*TLSCreds) Kind() string { return "TLS credentials" }

// ThrottleGroup limits the requests of the nodes that name it, together.
type ThrottleGroup struct {
	ID string
	// Limits of bytes and of requests per second. A limit of all of them excludes
	// those of reads and of writes.
	BPS, BPSRead, BPSWrite    ThrottleLimit
	IOPS, IOPSRead, IOPSWrite ThrottleLimit
	// IOPSSize is the length from which a request counts as several, in bytes;
	// 0: each counts as one.
	IOPSSize int64
}

// Kind implements Object.
func (*ThrottleGroup) Kind() string { return "a throttle group" }

// ThrottleLimit is one limit, in units per second. 0 is no limit.
type ThrottleLimit struct {
	Average int64
	Max     int64 // during a burst; 0: bursts are a tenth of a second of Average
	Burst   int64 // how many seconds a burst at Max may last; 0 means 1
}
