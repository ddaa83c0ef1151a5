package driver

import (
	"context"

	"github.com/cowl-disk/cowl/opts"
)

// Kind says which of the three sorts of driver this is.
type Kind uint8

// The kinds of driver.
const (
	KindProtocol Kind = iota + 1 // opens Storage without children
	KindFormat                   // opens a Format on top of a "file" child
	KindFilter                   // opens Storage on top of children with the same contents
)

// Desc describes a driver. It is constant: Driver.Desc returns the same
// pointer at every call, and what it points to must not be changed.
type Desc struct {
	Name    string   // as in -f NAME and driver=NAME
	Kind    Kind     // protocol, format or filter
	Schemes []string // "SCHEME:" file name prefixes that select the driver, without the colon
	// Children are the roles that children of the driver's nodes have, in the
	// order in which they are opened.
	Children []ChildDesc
	Summary  string // one line for the manual
	// Fallback: the driver takes what no other format recognises (raw).
	Fallback bool
	// PlainNames: the driver opens file names without a scheme (see NameProber).
	PlainNames bool
	// NotBuiltIn: the format is recognised, so that its images are not taken for
	// something else, but it cannot be used: Open fails with ErrUnsupported.
	NotBuiltIn bool
	// NoCompression: no image of this format takes compressed clusters, whatever the
	// options.
	NoCompression bool

	// NoDirectory: the children may be in different directories, so that an image
	// on a node of this driver cannot name other files relative to its own.
	NoDirectory bool
	// StoresBitmaps: images may hold dirty bitmaps, so that the measure of a copy of
	// an image with bitmaps tells their size.
	StoresBitmaps bool
	// CreateOrder is the order in which the options of a new image are announced,
	// where it is not that of the declaration. It may contain options of protocols.
	CreateOrder []string

	OpenOptions   *opts.Schema // nil: none
	CreateOptions *opts.Schema // nil: the driver cannot create
	AmendOptions  *opts.Schema // nil: the driver cannot amend

	// Serial is set by drivers whose nodes are not safe for concurrent use.
	// The block layer then makes one call at a time.
	Serial bool
}

// Driver opens nodes of one type.
type Driver interface {
	Desc() *Desc
	// Open opens a node: Storage for a protocol or filter, Format for a format.
	// On error everything that it has opened is closed again, except the
	// children in req, which stay with the caller.
	Open(ctx context.Context, req *OpenRequest) (Node, error)
}

// Prober is implemented by formats that can recognise their images.
type Prober interface {
	// Probe returns a score from 0 (not mine) to 100 (certain) for an image
	// that starts with head (at most ProbeBytes bytes; shorter if the image
	// is). size is the length of the image and name its file name, either of
	// which may be unknown (-1, "").
	Probe(head []byte, size int64, name string) int
}

// ProbeBytes is how much of the start of an image Probe is given.
const ProbeBytes = 2048

// FilenameParser is implemented by protocols whose file names hold more than
// one option (nbd://host/export). Other protocols get the name, with the
// scheme prefix removed, as the option "filename".
type FilenameParser interface {
	ParseFilename(name string) (opts.Dict, error)
}

// OptionJoiner is implemented by drivers some of whose options take the place of others
// when an open image gets new ones.
type OptionJoiner interface {
	// JoinOptions adds the options in given, from names without a prefix, to those that
	// the image was opened with.
	JoinOptions(old, given opts.Dict)
}

// NameProber is implemented by protocols that open some of the file names without
// a scheme: host devices. A driver with PlainNames opens those that none claims.
type NameProber interface {
	// ProbeName says whether name, a plain file name, is for this driver.
	ProbeName(name string) bool
}

// Creator is implemented by drivers that can create an image.
type Creator interface {
	// Create makes an image. For protocols, it makes (or truncates) the object
	// named by req.Filename with req.Size bytes. For formats, req.File is open
	// for writing, and was just created with length zero (or is a device, of
	// fixed size); Create lays the image out in it and flushes it.
	Create(ctx context.Context, req *CreateRequest) error
}

// CreateRequest says what to create.
type CreateRequest struct {
	Filename string
	Size     int64
	// Options holds what the CreateOptions schema declares. Create decodes it
	// with opts.Decode, which refuses keys that the schema does not have.
	Options opts.Dict
	File    Storage // formats only
	Env     *Env

	// Made, if not nil, is set by protocols that are Deleters: the object did not
	// exist before. An object that such a protocol made is removed again if Create fails; if that
	// fails, too, Made is set all the same. Where it is not known what was there, Made is not set:
	// nobody is told that an image of his is incomplete.
	Made *bool

	// CreateChild makes a further file (an external data file, an extent) and
	// opens it for writing; the caller closes it. It is nil for protocols.
	CreateChild func(ctx context.Context, filename string, size int64) (Storage, error)
	// OpenChild opens such a file that is there already for writing; the caller closes it.
	// It is nil for protocols.
	OpenChild func(ctx context.Context, filename string) (Storage, error)
	// OpenImage opens an image that options name, for looking at it; done closes it.
	// It is nil for protocols.
	OpenImage func(ctx context.Context, filename string) (img OpenedImage, done func(), err error)
}

// OpenedImage is an image that the block layer has opened for a driver.
type OpenedImage struct {
	Node   Node
	Format string
}

// Measurer is implemented by formats that can tell how large an image file
// would be.
type Measurer interface {
	Measure(ctx context.Context, req *MeasureRequest) (*Measured, error)
}

// MeasureRequest asks for the size of a new image with Options (those of
// Create) and a guest size of Size bytes. If Source is not nil it tells which
// ranges of the guest disk hold data; without it, no data is assumed.
type MeasureRequest struct {
	Size    int64
	Options opts.Dict
	Source  func(ctx context.Context, off, n int64) (Extent, error)
	// Objects holds what options refer to by id, as Env.Objects does.
	Objects Objects
}

// Measured is the answer: bytes required at the start, and bytes once every
// cluster is allocated.
type Measured struct {
	Required, FullyAllocated int64
	Bitmaps                  *int64
}

// Deleter is implemented by protocols that can remove what they created.
type Deleter interface {
	Delete(ctx context.Context, filename string) error
}

// OpenRequest says what to open and how.
type OpenRequest struct {
	// Name is how the user named the node, for messages.
	Name string
	// Options holds what the OpenOptions schema declares, and options of further
	// children ("data-file.filename"), which the driver hands to Env.OpenChild. For
	// a protocol opened by file name it has the key "filename".
	Options opts.Dict
	// File is the child with the role "file", nil if there is none. Children are
	// Storage whatever they really are: the block layer adapts formats.
	File Storage
	// Children are those that the block layer has opened, File among them, in the
	// order of their declaration. They belong to the block layer.
	Children []OpenedChild
	// Access says what the node may be used for.
	Access Access
	Cache  Cache
	// BackingGiven: the user names a backing file, whether the image does or not.
	BackingGiven bool
	// Sequential: the disk will be read or written once, in order, so that large caches
	// of tables gain nothing.
	Sequential bool
	// Repeatable: after ErrForgotten, all that was written is written again from the start, to a
	// new object. Without it a driver does what it can not to lose anything, also with Cache.NoFlush.
	Repeatable bool
	Env        *Env
}

// Cache holds the cache mode of an open node, as -t and -T choose it.
type Cache struct {
	Direct       bool // bypass the host page cache (none, directsync)
	NoFlush      bool // Flush does nothing (unsafe)
	WriteThrough bool // every write is flushed by the block layer (writethrough, directsync)
}

// Perm is a set of permissions on a node: what a user does with it, or what it
// lets others do. The bits are those that QEMU uses in its image locks.
type Perm uint32

// The permissions, by their bit in the lock byte ranges.
const (
	PermConsistentRead Perm = 1 << 0
	PermWrite          Perm = 1 << 1
	PermWriteUnchanged Perm = 1 << 2
	PermResize         Perm = 1 << 3
	PermAll            Perm = 0xf
)

// Access says how a node is used.
type Access struct {
	Write  bool // open the node for writing
	Perm   Perm // what we do
	Shared Perm // what others may do meanwhile
	// NoLock leaves image locks alone (-U: force-share).
	NoLock bool
	// Check opens an image leniently, for checking and repair: do not repair
	// on open, do not refuse what check can look at.
	Check bool
	// NoIO opens for looking at metadata only: nothing of the guest's data
	// will be read.
	NoIO bool
}
