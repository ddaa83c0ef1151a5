// Package link is what cowl and cowl-native, its companion for engines whose client
// libraries it needs, say to each other.
//
// cowl-native gets three sockets, and memory. One carries this conversation: values of JSON, one a
// line. cowl sends a Request and waits for the Reply; requests are answered one at a time.
// Once a disk is open, the second socket carries NBD, for all but reads and writes; those go
// over the third, and their bytes through the memory: see SlotSize. Passwords
// are only ever in requests, never in arguments or the environment, which others can read.
package link

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

const (
	// Version changes when one of the programs would misunderstand the other.
	Version = 3
	// ControlFD and DataFD are the numbers of the sockets in cowl-native.
	ControlFD, DataFD = 3, 4
	// Alive is how often cowl-native says that it lives.
	Alive = 2 * time.Second
	// Size is that of the NBD export, in bytes. That of the disk can change, which NBD has no
	// words for: cowl keeps requests within it.
	Size = int64(1) << 62
	// Piece is the largest request on the data socket, in bytes.
	Piece = 4 << 20

	maxLine = 4 << 20
)

// The operations. Open makes the data socket serve the disk.
const (
	OpOpen           = "open"            // Args of the engine -> Facts
	OpCreate         = "create"          // Args of the engine -> bool, whether it was not there before
	OpDelete         = "delete"          // Args of the engine
	OpResize         = "resize"          // Resize
	OpUsage          = "usage"           // -> int64
	OpWhy            = "why"             // -> Error, of the last request on the data socket that failed
	OpSnapshots      = "snapshots"       // -> []Snapshot
	OpCreateSnapshot = "create-snapshot" // string
	OpApplySnapshot  = "apply-snapshot"  // string -> int64, the size of the disk
	OpDeleteSnapshot = "delete-snapshot" // string
	OpRelease        = "release"         // what is written is flushed, and the disk closed; another one can be opened then
	OpClose          = "close"           // as release, but the program ends after the answer
)

// Request asks for an operation.
type Request struct {
	ID   uint64          `json:"id"`
	Op   string          `json:"op"`
	Args json.RawMessage `json:"args,omitempty"`
}

// Reply is the answer to the request with the ID, or, with the ID zero, tells that
// cowl-native lives.
type Reply struct {
	ID     uint64          `json:"id,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
	Error  *Error          `json:"error,omitempty"`
	// Version is in the first line.
	Version int `json:"version,omitempty"`
}

// Error is a step that failed. What users read is made of it by the driver.
type Error struct {
	// Step is the step, by a name that the engine and its driver share.
	Step string `json:"step"`
	// Name is what the step was about, where that is not plain.
	Name string `json:"name,omitempty"`
	// Errno is the number of the system, 0 if there is none.
	Errno int `json:"errno,omitempty"`
	// Text is what else there is to say, in the library's words.
	Text string `json:"text,omitempty"`
}

// Error implements error.
func (e *Error) Error() string {
	return fmt.Sprintf("%s %s (%d): %s", e.Step, e.Name, e.Errno, e.Text)
}

// The steps that all engines have.
const (
	StepLibrary = "library" // loading the library; Name is its file, Text the reason
	StepRequest = "request" // Name is that of the operation
)

// Facts are what cowl has to know of a disk that is open.
type Facts struct {
	Size int64 `json:"size"`
	// Object is the unit in which the engine keeps the disk, in bytes, 0 if there is none.
	Object int64 `json:"object,omitempty"`
	// ReadOnly: the disk takes no writes, whatever was asked for.
	ReadOnly bool `json:"read-only,omitempty"`
	// Grows: writes behind the end make the disk larger.
	Grows bool `json:"grows,omitempty"`
	// Holes: the engine tells where they are.
	Holes bool `json:"holes,omitempty"`
	// Zeroes: the engine can write zeroes that it is not sent.
	Zeroes bool `json:"zeroes,omitempty"`
}

// Resize asks for a size.
type Resize struct {
	Size     int64  `json:"size"`
	Prealloc string `json:"prealloc,omitempty"` // as driver.Prealloc has it
}

// Snapshot describes a snapshot.
type Snapshot struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// RBD names a disk of Ceph and says how to reach it.
type RBD struct {
	Pool      string `json:"pool"`
	Namespace string `json:"namespace,omitempty"`
	Image     string `json:"image"`
	Snapshot  string `json:"snapshot,omitempty"`
	Conf      string `json:"conf,omitempty"`
	User      string `json:"user,omitempty"`
	// Pairs are settings of the library, in their order: a key and a value each.
	Pairs    [][2]string `json:"pairs,omitempty"`
	Monitors string      `json:"monitors,omitempty"` // as mon_host has it
	Key      string      `json:"key,omitempty"`      // base64
	Auth     string      `json:"auth,omitempty"`     // as auth_client_required has it
	Cache    bool        `json:"cache,omitempty"`
	Write    bool        `json:"write,omitempty"`
	// Encryption are the layers to open, that of the image first; for a new image the one
	// that it gets.
	Encryption []Encryption `json:"encryption,omitempty"`

	// Of a new image.
	Size  int64 `json:"size,omitempty"`
	Order int   `json:"order,omitempty"` // of the object size, a power of two; 0: the default
}

// Gluster names a file in a volume and says how to reach it.
type Gluster struct {
	Volume  string          `json:"volume"`
	Path    string          `json:"path"`
	Servers []GlusterServer `json:"servers"` // tried in their order
	Debug   int             `json:"debug"`   // level of the log, from 0 to 9
	LogFile string          `json:"log-file"`
	Write   bool            `json:"write,omitempty"`
	Direct  bool            `json:"direct,omitempty"` // past the caches

	// Of a new file.
	Size     int64  `json:"size,omitempty"`
	Prealloc string `json:"prealloc,omitempty"` // as Resize has it
}

// GlusterServer is a server that knows the volume.
type GlusterServer struct {
	Transport string `json:"transport"` // tcp or unix
	Host      string `json:"host"`      // or path of the socket
	Port      int    `json:"port,omitempty"`
}

// Encryption is a layer of encryption that the library knows.
type Encryption struct {
	Format     string `json:"format"` // luks, luks2 or luks-any
	Cipher     string `json:"cipher,omitempty"`
	Passphrase []byte `json:"passphrase"`
}

// Conn is one end of the conversation. Send may be called from several goroutines.
type Conn struct {
	mu   sync.Mutex
	w    io.Writer
	r    *bufio.Reader
	line []byte // what has come of the next line
}

// NewConn returns the end on a socket.
func NewConn(s io.ReadWriter) *Conn { return &Conn{w: s, r: bufio.NewReader(s)} }

// Send sends a Request or a Reply.
func (c *Conn) Send(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err = c.w.Write(append(b, '\n'))
	return err
}

// Receive reads the next line into v. It must not be called concurrently. After an error
// that is a time-out it may be called again: nothing that had come is lost.
func (c *Conn) Receive(v any) error {
	for {
		b, err := c.r.ReadSlice('\n')
		c.line = append(c.line, b...)
		switch {
		case err == nil:
			line := c.line
			c.line = nil
			return json.Unmarshal(line, v)
		case !errors.Is(err, bufio.ErrBufferFull):
			return err
		case len(c.line) > maxLine:
			return fmt.Errorf("a line is longer than %d bytes", maxLine)
		}
	}
}
