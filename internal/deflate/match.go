package deflate

const (
	window   = 4 << 10  // that readers declare
	piece    = 32 << 10 // that readers decode at once, at least
	minMatch = 3
	maxMatch = 258

	// maxDistance is the longest distance that the format has.
	maxDistance = 32 << 10
	// longestRun is how many equal bytes are looked for.
	longestRun = 4096

	// smallBuffer is from where on a buffer is parsed quickly.
	smallBuffer = 16 << 10

	// How hard matches are sought: how many candidates of four equal bytes are compared,
	// a quarter of them once a match of goodMatch is there; one of niceMatch ends the
	// search, and one of lazyMatch is taken without a look at the next byte.
	maxChain  = 16
	goodMatch = 8
	niceMatch = 64
	lazyMatch = 16

	// matchBits is about what a match costs, in bits, but for those of its distance.
	matchBits = 4

	// blockTokens is how many literals and matches share a pair of codes.
	blockTokens = 9 << 10

	// Of repeats of up to shortPeriod bytes only longMatch places at the end are stored:
	// those before are like them.
	shortPeriod = 8
	longMatch   = 32

	// After each quietBytes places without a match one more byte is passed over from one
	// place to the next, up to maxSkip.
	quietBytes = 512
	maxSkip    = 7

	hashBits3  = 13
	hashBits4  = 13
	hashFactor = 2654435761

	// tail is how many bytes at the end no match starts in: words are read from src.
	tail = 8
)

// sequence is some bytes that are written one by one, and the match behind them.
type sequence struct {
	literals uint32
	length   uint16
	distance uint16 // less 1
}

// entry is where a hash was seen last, modulo 64 KiB, below the rest of the hash. What is
// too old is recognised by its distance, or else by its bytes.
type entry uint32

// reachAt is how far back a match at i may reach.
func reachAt(i int) uint32 {
	return uint32(min(i, i&(piece-1)+window, maxDistance))
}

// toPieceEnd is how long a match at i is at most that reaches farther back than the window.
func toPieceEnd(i int) int { return piece - i&(piece-1) }
