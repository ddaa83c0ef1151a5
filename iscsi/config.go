package iscsi

import (
	"cmp"
	"context"
	"net"
	"time"
)

// Digest says whether PDUs have checksums.
type Digest uint8

// The digests.
const (
	DigestNone    Digest = iota
	DigestPrefer         // CRC32C, or none where the target wants none
	DigestAllow          // none, or CRC32C where the target wants it
	DigestRequire        // CRC32C
)

func (d Digest) offer() string {
	return [...]string{"None", "CRC32C,None", "None,CRC32C", "CRC32C"}[d&3]
}

// Defaults of Config.
const (
	DefaultInitiator = "iqn.2008-11.org.linux-kvm"
	DefaultPort      = "3260"
	defaultKeepAlive = 5 * time.Second
	defaultLogin     = 30 * time.Second
)

// Ready prepares a connection that was made again, by commands to d.
type Ready func(ctx context.Context, d Doer) error

// Config says how to log in to a target.
type Config struct {
	// Address is the portal, "host:port".
	Address string
	// Target is the name of the target; "" is for Discover.
	Target string
	// Initiator is the name of the initiator, "" is DefaultInitiator.
	Initiator string
	// CHAP is what the target asks for, nil where it asks for nothing. TargetCHAP makes
	// the target prove itself, too; it needs CHAP.
	CHAP, TargetCHAP         *Credentials
	HeaderDigest, DataDigest Digest
	// Timeout is how long a connection may make no progress while commands wait for an
	// answer. 0 is no bound, as long as the target answers pings.
	Timeout time.Duration
	// KeepAlive is after how much silence the target is pinged, 0 is five seconds. After
	// three times as much the connection is given up.
	KeepAlive time.Duration
	// Reconnect is how long a lost connection is tried to be made again; 0: commands fail.
	Reconnect time.Duration
	// Ready is called with each connection that is made again, before other commands go
	// over it. An error makes the session log out and try again, within Reconnect.
	Ready Ready
	// Dial makes connections; nil is that of package net.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

func (c *Config) initiator() string { return cmp.Or(c.Initiator, DefaultInitiator) }

func (c *Config) keepAlive() time.Duration { return cmp.Or(c.KeepAlive, defaultKeepAlive) }

// loginTime bounds connecting and logging in.
func (c *Config) loginTime() time.Duration { return cmp.Or(c.Timeout, defaultLogin) }

func (c *Config) dial(ctx context.Context, address string) (net.Conn, error) {
	if c.Dial != nil {
		return c.Dial(ctx, "tcp", address)
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", address)
}

// Values that are announced to the target, in bytes.
const (
	maxReceive     = 256 << 10 // of a data segment that it sends
	offeredBurst   = 1 << 20
	offeredFirst   = 256 << 10
	offeredR2T     = 16
	defaultSegment = 8192 // where a side says nothing
	maxSegment     = 1<<24 - 1
)

// params are what was negotiated (RFC 7143, 13).
type params struct {
	digests
	sendSegment   int // data in a PDU that we send
	firstBurst    int // unsolicited data of a command
	maxBurst      int // data for an R2T
	maxR2T        int // of a command at a time
	immediateData bool
	initialR2T    bool
}

func defaultParams() params {
	return params{sendSegment: defaultSegment, firstBurst: 64 << 10, maxBurst: 256 << 10, maxR2T: 1, immediateData: true, initialR2T: true}
}
