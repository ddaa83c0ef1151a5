package wire

import (
	"fmt"
	"sync"
)

// Magic numbers.
const (
	InitMagic            uint64 = 0x4e42444d41474943 // "NBDMAGIC", how every server begins
	OldMagic             uint64 = 0x00420281861253   // follows in the oldstyle handshake
	OptMagic             uint64 = 0x49484156454f5054 // "IHAVEOPT", newstyle and before each option
	OptReplyMagic        uint64 = 0x0003e889045565a9
	RequestMagic         uint32 = 0x25609513
	ExtendedRequestMagic uint32 = 0x21e41c71
	SimpleReplyMagic     uint32 = 0x67446698
	StructuredReplyMagic uint32 = 0x668e33ef
	ExtendedReplyMagic   uint32 = 0x6e8a278c
)

// Handshake flags, of the server and of the client (which answers with the same
// bits).
const (
	FlagFixedNewstyle uint16 = 1 << 0
	FlagNoZeroes      uint16 = 1 << 1

	FlagClientFixedNewstyle uint32 = 1 << 0
	FlagClientNoZeroes      uint32 = 1 << 1
)

// TransFlags are the transmission flags of an export.
type TransFlags uint16

// The transmission flags.
const (
	FlagHasFlags           TransFlags = 1 << 0
	FlagReadOnly           TransFlags = 1 << 1
	FlagSendFlush          TransFlags = 1 << 2
	FlagSendFUA            TransFlags = 1 << 3
	FlagRotational         TransFlags = 1 << 4
	FlagSendTrim           TransFlags = 1 << 5
	FlagSendWriteZeroes    TransFlags = 1 << 6
	FlagSendDF             TransFlags = 1 << 7
	FlagCanMultiConn       TransFlags = 1 << 8
	FlagSendResize         TransFlags = 1 << 9
	FlagSendCache          TransFlags = 1 << 10
	FlagSendFastZero       TransFlags = 1 << 11
	FlagBlockStatusPayload TransFlags = 1 << 12
)

// Option is what a client asks for in the handshake.
type Option uint32

// The options.
const (
	OptExportName      Option = 1
	OptAbort           Option = 2
	OptList            Option = 3
	OptPeekExport      Option = 4 // withdrawn
	OptStartTLS        Option = 5
	OptInfo            Option = 6
	OptGo              Option = 7
	OptStructuredReply Option = 8
	OptListMetaContext Option = 9
	OptSetMetaContext  Option = 10
	OptExtendedHeaders Option = 11
)

var optionNames = sync.OnceValue(func() map[Option]string {
	return map[Option]string{
		OptExportName: "export name", OptAbort: "abort", OptList: "list", OptPeekExport: "peek export",
		OptStartTLS: "starttls", OptInfo: "info", OptGo: "go", OptStructuredReply: "structured reply",
		OptListMetaContext: "list meta context", OptSetMetaContext: "set meta context",
		OptExtendedHeaders: "extended headers",
	}
})

func (o Option) String() string {
	if s, ok := optionNames()[o]; ok {
		return s
	}
	return "<unknown>"
}

// OptionReply is the type of a reply to an option.
type OptionReply uint32

const repErr OptionReply = 1 << 31

// The types of replies to options. Those with the highest bit set are errors.
const (
	RepAck         OptionReply = 1
	RepServer      OptionReply = 2
	RepInfo        OptionReply = 3
	RepMetaContext OptionReply = 4

	RepErrUnsup         = repErr + 1
	RepErrPolicy        = repErr + 2
	RepErrInvalid       = repErr + 3
	RepErrPlatform      = repErr + 4
	RepErrTLSReqd       = repErr + 5
	RepErrUnknown       = repErr + 6
	RepErrShutdown      = repErr + 7
	RepErrBlockSizeReqd = repErr + 8
	RepErrTooBig        = repErr + 9
	RepErrExtHeaderReqd = repErr + 10
)

// IsErr says whether the reply is an error, known or not.
func (r OptionReply) IsErr() bool { return r&repErr != 0 }

func (r OptionReply) String() string {
	if r.IsErr() {
		return fmt.Sprintf("error %d", uint32(r&^repErr))
	}
	return fmt.Sprintf("reply %d", uint32(r))
}

// InfoType is a kind of information that OptInfo and OptGo ask for.
type InfoType uint16

// The kinds of information.
const (
	InfoExport      InfoType = 0
	InfoName        InfoType = 1
	InfoDescription InfoType = 2
	InfoBlockSize   InfoType = 3
)

// Command is the type of a request.
type Command uint16

// The commands.
const (
	CmdRead        Command = 0
	CmdWrite       Command = 1
	CmdDisc        Command = 2
	CmdFlush       Command = 3
	CmdTrim        Command = 4
	CmdCache       Command = 5
	CmdWriteZeroes Command = 6
	CmdBlockStatus Command = 7
	CmdResize      Command = 8
)

var commandNames = [...]string{"read", "write", "disc", "flush", "trim", "cache", "write zeroes", "block status", "resize"}

func (c Command) String() string {
	if int(c) < len(commandNames) {
		return commandNames[c]
	}
	return fmt.Sprintf("command %d", uint16(c))
}

// CmdFlags modify a command.
type CmdFlags uint16

// The command flags.
const (
	CmdFlagFUA        CmdFlags = 1 << 0
	CmdFlagNoHole     CmdFlags = 1 << 1
	CmdFlagDF         CmdFlags = 1 << 2
	CmdFlagReqOne     CmdFlags = 1 << 3
	CmdFlagFastZero   CmdFlags = 1 << 4
	CmdFlagPayloadLen CmdFlags = 1 << 5
)

// ChunkType is the type of a chunk of a structured or extended reply.
type ChunkType uint16

const chunkErr ChunkType = 1 << 15

// The types of chunks. Those with the highest bit set are errors.
const (
	ChunkNone           ChunkType = 0
	ChunkOffsetData     ChunkType = 1
	ChunkOffsetHole     ChunkType = 2
	ChunkBlockStatus    ChunkType = 5
	ChunkBlockStatusExt ChunkType = 6
	ChunkError                    = chunkErr + 1
	ChunkErrorOffset              = chunkErr + 2
)

// IsErr says whether the chunk is an error, known or not.
func (t ChunkType) IsErr() bool { return t&chunkErr != 0 }

// ReplyFlagDone marks the last chunk of a reply.
const ReplyFlagDone uint16 = 1 << 0

// Flags of the extents of the metadata contexts.
const (
	StateHole  uint64 = 1 << 0 // base:allocation
	StateZero  uint64 = 1 << 1 // base:allocation
	StateDirty uint64 = 1 << 0 // qemu:dirty-bitmap:NAME
)

// Names of metadata contexts.
const (
	ContextAllocation      = "base:allocation"
	ContextAllocationDepth = "qemu:allocation-depth"
	ContextDirtyBitmap     = "qemu:dirty-bitmap:" // the name of the bitmap follows
)

// Limits of the protocol and of common sense.
const (
	MaxString  = 4096     // bytes of a name or a message
	MaxPayload = 32 << 20 // bytes that a request or a reply may carry, unless agreed on otherwise
	// DefaultPort is the TCP and vsock port registered for the protocol.
	DefaultPort = 10809
)
