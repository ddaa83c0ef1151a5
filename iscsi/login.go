package iscsi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/cowl-disk/cowl/internal/message"
)

// Limits of a login.
const (
	maxRounds    = 32
	maxRedirects = 4
)

// Stages of a login (RFC 7143, 11.12.3).
const (
	stageSecurity    = 0
	stageOperational = 1
	stageFull        = 3
)

// movedError says that the target is elsewhere.
type movedError struct {
	address   string
	permanent bool
}

func (e *movedError) Error() string { return "the target moved to " + e.address }

// login is a login under way.
type login struct {
	nc    net.Conn
	src   *source
	br    *bufio.Reader
	cfg   *Config
	isid  [6]byte
	tsih  uint16
	stat  uint32 // ExpStatSN
	exp   uint32 // ExpCmdSN of the target
	max   uint32 // MaxCmdSN
	round int
	p     params
	chap  chap
	// proven: the target proved that it is the right one.
	proven bool
}

// initialCmdSN numbers the first command of a session.
const initialCmdSN = 1

// run logs in.
func (l *login) run(discovery bool) error {
	l.p = defaultParams()
	first := texts{{"InitiatorName", l.cfg.initiator()}, {"SessionType", "Normal"}, {"TargetName", l.cfg.Target}}
	if discovery {
		first[1].value = "Discovery"
		first = first[:2]
	}
	stage, err := l.security(first)
	if err != nil {
		return err
	}
	if l.cfg.TargetCHAP != nil && !l.proven {
		return message.Errorf(ErrUnverified, "the target does not let itself be verified (CHAP)")
	}
	if stage == stageFull {
		return nil
	}
	return l.operational(discovery)
}

// security is the first stage; it returns the next one.
func (l *login) security(first texts) (stage byte, err error) {
	transit := l.cfg.CHAP == nil
	switch {
	case transit:
		first.add("AuthMethod", "None")
	case l.cfg.TargetCHAP != nil:
		first.add("AuthMethod", "CHAP")
	default:
		first.add("AuthMethod", "CHAP,None")
	}
	got, next, err := l.exchange(stageSecurity, stageOperational, transit, first)
	if err != nil {
		return 0, err
	}
	method, _ := got.get("AuthMethod")
	switch {
	case method == "CHAP" && l.cfg.CHAP != nil && next == stageSecurity:
		return l.authenticate()
	case method != "" && method != "None":
		return 0, protocolError("the target wants the authentication method '%.40s'", method)
	}
	for next == stageSecurity {
		if _, next, err = l.exchange(stageSecurity, stageOperational, true, nil); err != nil {
			return 0, err
		}
	}
	return next, nil
}

// authenticate does CHAP.
func (l *login) authenticate() (next byte, err error) {
	got, _, err := l.exchange(stageSecurity, stageOperational, false, texts{{"CHAP_A", l.chap.offer}})
	if err != nil {
		return 0, err
	}
	answer, err := l.chap.answer(got, l.cfg.CHAP, l.cfg.TargetCHAP)
	if err != nil {
		return 0, err
	}
	got, next, err = l.exchange(stageSecurity, stageOperational, true, answer)
	if err != nil {
		return 0, err
	}
	if l.cfg.TargetCHAP != nil {
		if err := l.chap.verify(got, l.cfg.TargetCHAP); err != nil {
			return 0, err
		}
		l.proven = true
	}
	for next == stageSecurity {
		if _, next, err = l.exchange(stageSecurity, stageOperational, true, nil); err != nil {
			return 0, err
		}
	}
	return next, nil
}

// operational negotiates the values of the session.
func (l *login) operational(discovery bool) error {
	offer := texts{{"HeaderDigest", l.cfg.HeaderDigest.offer()}, {"DataDigest", l.cfg.DataDigest.offer()},
		{"MaxRecvDataSegmentLength", strconv.Itoa(maxReceive)}, {"DefaultTime2Wait", "2"}, {"DefaultTime2Retain", "0"}, {"ErrorRecoveryLevel", "0"}}
	if !discovery {
		offer = append(offer, texts{{"MaxConnections", "1"}, {"InitialR2T", "No"}, {"ImmediateData", "Yes"},
			{"MaxBurstLength", strconv.Itoa(offeredBurst)}, {"FirstBurstLength", strconv.Itoa(offeredFirst)},
			{"MaxOutstandingR2T", strconv.Itoa(offeredR2T)}, {"DataPDUInOrder", "Yes"}, {"DataSequenceInOrder", "Yes"}}...)
	}
	send := offer
	var all texts
	for {
		got, next, err := l.exchange(stageOperational, stageFull, true, send)
		if err != nil {
			return err
		}
		all = append(all, got...)
		if next == stageFull {
			break
		}
		send = replies(offer, got)
	}
	return l.accept(all)
}

// replies answers the keys that the target offers of itself.
func replies(offer, got texts) texts {
	declared := []string{"MaxRecvDataSegmentLength", "TargetAlias", "TargetAddress", "TargetPortalGroupTag", "TargetName"}
	var t texts
	for _, p := range got {
		_, ours := offer.get(p.key)
		switch {
		case ours || slices.Contains(declared, p.key):
		case p.key == "IFMarker" || p.key == "OFMarker":
			t.add(p.key, "No")
		case p.value != "NotUnderstood" && p.value != "Reject" && p.value != "Irrelevant":
			t.add(p.key, "NotUnderstood")
		}
	}
	return t
}

// accept takes the target's answers.
func (l *login) accept(got texts) error {
	p := &l.p
	for _, numeric := range []struct {
		key       string
		to        *int
		low, high int
		ours      int
	}{
		{"MaxRecvDataSegmentLength", &p.sendSegment, 512, maxSegment, maxReceive},
		{"MaxBurstLength", &p.maxBurst, 512, maxSegment, offeredBurst},
		{"FirstBurstLength", &p.firstBurst, 512, maxSegment, offeredFirst},
		{"MaxOutstandingR2T", &p.maxR2T, 1, 65535, offeredR2T},
	} {
		text, ok := got.get(numeric.key)
		if !ok || unanswered(text) {
			continue
		}
		n, err := number(numeric.key, text, numeric.low, numeric.high)
		if err != nil {
			return err
		}
		*numeric.to = min(n, numeric.ours)
	}
	p.firstBurst = min(p.firstBurst, p.maxBurst)
	for _, boolean := range []struct {
		key string
		to  *bool
	}{{"InitialR2T", &p.initialR2T}, {"ImmediateData", &p.immediateData}} {
		text, ok := got.get(boolean.key)
		if ok && !unanswered(text) {
			*boolean.to = text == "Yes"
		}
	}
	for _, d := range []struct {
		key  string
		want Digest
		to   *bool
	}{{"HeaderDigest", l.cfg.HeaderDigest, &p.header}, {"DataDigest", l.cfg.DataDigest, &p.data}} {
		text, _ := got.get(d.key)
		*d.to = text == "CRC32C"
		if *d.to && d.want == DigestNone || !*d.to && d.want == DigestRequire {
			return protocolError("the target answers %s=%s with %.40s", d.key, d.want.offer(), text)
		}
	}
	for _, key := range []string{"DataPDUInOrder", "DataSequenceInOrder"} {
		if text, ok := got.get(key); ok && text == "No" {
			return protocolError("the target answers %s=Yes with No", key)
		}
	}
	return nil
}

func unanswered(text string) bool {
	return text == "Irrelevant" || text == "NotUnderstood" || text == "Reject"
}

// exchange sends keys, and returns the answer with the stage that the login is in then.
func (l *login) exchange(stage, next byte, transit bool, send texts) (texts, byte, error) {
	h := header{0: opLogin | immediate, 1: stage << 2}
	if transit {
		h[1] |= flagFinal | next
	}
	copy(h[8:], l.isid[:])
	binary.BigEndian.PutUint16(h[14:], l.tsih)
	h.set(16, 1) // the tag is the same for the whole login
	h.set(24, initialCmdSN)
	h.set(28, l.stat)
	data := send.encode()
	if len(data) > defaultSegment {
		return nil, 0, protocolError("the names for the login are too long")
	}
	b := newBatch(1)
	b.add(&h, data, digests{})
	if _, err := b.bufs.WriteTo(l.nc); err != nil {
		return nil, 0, err
	}
	var text []byte
	for {
		if l.round++; l.round > maxRounds {
			return nil, 0, protocolError("the login takes more than %d rounds", maxRounds)
		}
		var r header
		if err := readHeader(l.br, &r, digests{}); err != nil {
			return nil, 0, unexpectedEOF(err)
		}
		n := r.dataLength()
		if r.opcode() != opLoginReply || r.tag() != 1 || len(text)+n > maxLoginText {
			return nil, 0, protocolError("the target answers a login with something else (opcode %#02x, %d bytes)", r.opcode(), n)
		}
		part := make([]byte, n)
		if err := readData(l.br, part, n, digests{}); err != nil {
			return nil, 0, err
		}
		text = append(text, part...)
		if r[36] != 0 {
			return nil, 0, l.refused(r[36], r[37], text)
		}
		l.stat, l.exp, l.max = r.u32(24)+1, r.u32(28), r.u32(32)
		if r[1]&flagContinue != 0 {
			ack := header{0: h[0], 1: stage << 2}
			copy(ack[8:], h[8:])
			ack.set(28, l.stat)
			b := newBatch(1)
			b.add(&ack, nil, digests{})
			if _, err := b.bufs.WriteTo(l.nc); err != nil {
				return nil, 0, err
			}
			continue
		}
		got, err := parseTexts(text)
		if err != nil || r[1]&flagFinal == 0 {
			return got, stage, err
		}
		now := r[1] & 3
		if !transit || now <= stage || now == 2 {
			return nil, 0, protocolError("the target goes on to stage %d of the login by itself", now)
		}
		l.tsih = binary.BigEndian.Uint16(r[14:])
		return got, now, nil
	}
}

// refused makes the error of a login that did not succeed.
func (l *login) refused(class, detail byte, text []byte) error {
	if class == 1 {
		t, err := parseTexts(text)
		if err != nil {
			return err
		}
		address, _ := t.get("TargetAddress")
		address, _, _ = strings.Cut(address, ",") // the portal group tag follows
		if address == "" {
			return protocolError("the target moved, and does not say where")
		}
		return &movedError{withPort(address), detail == 2}
	}
	return &LoginError{class, detail}
}

// withPort adds the port of iSCSI where an address has none.
func withPort(address string) string {
	if _, _, err := net.SplitHostPort(address); err != nil {
		return net.JoinHostPort(strings.Trim(address, "[]"), DefaultPort)
	}
	return address
}

// connect connects to the target, wherever it moved, and logs in. permanent is the new
// address of a target that moved for good.
func connect(ctx context.Context, cfg *Config, isid [6]byte, discovery bool) (c *conn, permanent string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, cfg.loginTime(), ErrTimeout)
	defer cancel()
	address, offer := cfg.Address, chapOffer()
	for range maxRedirects + 2 { // the last one for chapOld
		c, algorithm, err := logIn(ctx, cfg, withPort(address), isid, discovery, offer)
		var refused *LoginError
		if errors.As(err, &refused) && offer != chapOld && algorithm > chapOld[:1] {
			offer = chapOld // the target may mean another algorithm by the number
			continue
		}
		if moved, ok := err.(*movedError); ok {
			address = moved.address
			if moved.permanent {
				permanent = address
			}
			continue
		}
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
			if err == ErrTimeout {
				err = lost(&ConnectError{address, ErrTimeout})
			}
		}
		return c, permanent, err
	}
	return nil, "", protocolError("the target moved more than %d times", maxRedirects)
}

// logIn logs in once. algorithm is the number of that of CHAP, "" without.
func logIn(ctx context.Context, cfg *Config, address string, isid [6]byte, discovery bool, offer string) (c *conn, algorithm string, err error) {
	nc, err := cfg.dial(ctx, address)
	if err != nil {
		return nil, "", &ConnectError{address, err}
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	src := &source{nc: nc}
	l := &login{nc: nc, src: src, br: bufio.NewReaderSize(src, readBuffer), cfg: cfg, isid: isid, chap: chap{offer: offer}}
	err = l.run(discovery)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		nc.Close()
		return nil, l.chap.number, err
	}
	return newConn(l), l.chap.number, nil
}
