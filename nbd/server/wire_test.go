package server_test

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cowl-disk/cowl/nbd/server"
	"github.com/cowl-disk/cowl/nbd/wire"
)

// Parts of conversations, in hexadecimal.
const (
	greeting = "4e42444d41474943 49484156454f5054 0003"
	clientOK = "00000003"
	opt      = "49484156454f5054"
	rep      = "0003e889045565a9"
)

// exchange is something that the client says and what the server must answer, byte
// by byte. "?" instead of an answer: some option reply with the error number that
// follows. "EOF": the server closes the connection.
type exchange struct{ say, hear string }

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestConversations holds whole conversations against the specification.
func TestConversations(t *testing.T) {
	ack := func(option string) string { return rep + option + "00000001 00000000" }
	goInfo := rep + "00000007 00000003 0000000e 0003 00000001 00001000 02000000" +
		rep + "00000007 00000003 0000000c 0000 0000000000000400 %FLAGS%" + ack("00000007")
	start := func(flags string) exchange {
		return exchange{opt + "00000007 00000006 00000000 0000", strings.Replace(goInfo, "%FLAGS%", flags, 1)}
	}
	structured := exchange{opt + "00000008 00000000", ack("00000008")}
	extended := exchange{opt + "0000000b 00000000", ack("0000000b")}
	base := hex.EncodeToString([]byte("base:allocation"))
	setBase := exchange{opt + "0000000a 0000001b 00000000 00000001 0000000f" + base,
		rep + "0000000a 00000004 00000013 00000001" + base + ack("0000000a")}
	request := func(flags, cmd, off, n string) string {
		return "25609513" + flags + cmd + "0102030405060708 00000000000000" + off + "000000" + n
	}
	requestExt := func(flags, cmd, off, n string) string {
		return "21e41c71" + flags + cmd + "0102030405060708 00000000000000" + off + "00000000000000" + n
	}
	simple := func(errno string) string { return "67446698 000000" + errno + "0102030405060708" }
	chunk := func(flags, typ, n string) string {
		return "668e33ef" + flags + typ + "0102030405060708 000000" + n
	}
	chunkExt := func(flags, typ, off, n string) string {
		return "6e8a278c" + flags + typ + "0102030405060708 00000000000000" + off + "00000000000000" + n
	}
	for name, talk := range map[string][]exchange{
		"flags":            {{"00000007", "EOF"}},
		"magic":            {{clientOK + "0000000000000000 00000001 00000000", "EOF"}},
		"export name":      {{clientOK + opt + "00000001 00000000", "0000000000000400 0d6d"}},
		"zeroes":           {{"00000001" + opt + "00000001 00000000", "0000000000000400 0d6d" + strings.Repeat("00", 124)}},
		"unknown name":     {{clientOK + opt + "00000001 00000001 41", "EOF"}},
		"abort":            {{clientOK + opt + "00000002 00000000", ack("00000002")}, {"", "EOF"}},
		"unknown option":   {{clientOK, ""}, {opt + "000000ff 00000002 1234", "? 1"}, start("0d6d")},
		"peek":             {{clientOK, ""}, {opt + "00000004 00000000", "? 1"}},
		"too long":         {{clientOK, ""}, {opt + "00000007 00010001" + strings.Repeat("00", 0x10001), "? 9"}, start("0d6d")},
		"much too long":    {{clientOK, ""}, {opt + "00000007 00100001", "EOF"}},
		"list":             {{clientOK, ""}, {opt + "00000003 00000000", rep + "00000003 00000002 00000004 00000000" + ack("00000003")}},
		"list with data":   {{clientOK, ""}, {opt + "00000003 00000001 00", "? 3"}},
		"bad info":         {{clientOK, ""}, {opt + "00000007 00000006 00000001 0000", "? 3"}},
		"info length":      {{clientOK, ""}, {opt + "00000006 00000006 00000000 0001", "? 3"}},
		"unknown export":   {{clientOK, ""}, {opt + "00000007 00000007 00000001 41 0000", "? 6"}},
		"no TLS":           {{clientOK, ""}, {opt + "00000005 00000000", "? 2"}},
		"meta unready":     {{clientOK, ""}, {opt + "0000000a 00000008 00000000 00000000", "? 3"}},
		"twice structured": {{clientOK, ""}, structured, {opt + "00000008 00000000", "? 3"}},
		"upgrade":          {{clientOK, ""}, structured, extended, {opt + "00000008 00000000", "? 10"}, start("1ded")},
		"meta wildcard": {{clientOK, ""}, structured,
			{opt + "00000009 00000011 00000000 00000001 00000005" + hex.EncodeToString([]byte("base:")),
				rep + "00000009 00000004 00000013 00000000" + base + ack("00000009")},
			{opt + "0000000a 00000011 00000000 00000001 00000005" + hex.EncodeToString([]byte("base:")), ack("0000000a")}},
		"simple": {{clientOK, ""}, start("0d6d"),
			{request("0000", "0000", "00", "04"), simple("00") + "00010203"},
			{request("0000", "0001", "08", "02") + "aabb", simple("00")},
			{request("0000", "0000", "07", "04"), simple("00") + "07aabb0a"},
			{request("0000", "0003", "00", "00"), simple("00")},
			{request("0000", "0003", "00", "01"), simple("16")},
			{request("0000", "0004", "00", "01"), simple("00")},
			{request("0000", "0005", "00", "01"), simple("00")},
			{request("0001", "0006", "00", "01"), simple("00")},
			{request("0010", "0006", "00", "01"), simple("5f")},
			{request("0000", "0007", "00", "01"), simple("16")},
			{request("0000", "0009", "00", "01"), simple("16")},
			{request("0004", "0000", "00", "01"), simple("16")},
			{request("0100", "0000", "00", "01"), simple("16")},
			{"25609513 0000 0000 0102030405060708 00000000000003ff 00000002", simple("16")},
			{"25609513 0000 0001 0102030405060708 00000000000003ff 00000002 1122", simple("1c")},
			{"25609513 0000 0001 0102030405060708 ffffffffffffffff 00000002 1122", simple("1c")},
			{"25609513 0000 0000 0102030405060708 0000000000000000 02000001", simple("16")},
			{request("0000", "0002", "00", "00"), "EOF"}},
		"bad request":  {{clientOK, ""}, start("0d6d"), {strings.Repeat("00", 28), "EOF"}},
		"huge payload": {{clientOK, ""}, start("0d6d"), {"25609513 0000 0001 0102030405060708 0000000000000000 02000001", "EOF"}},
		"structured": {{clientOK, ""}, structured, setBase, start("0ded"),
			{request("0000", "0000", "02", "02"), chunk("0001", "0001", "0a") + "0000000000000002 0203"},
			{request("0004", "0000", "02", "02"), chunk("0001", "0001", "0a") + "0000000000000002 0203"},
			{request("0000", "0001", "02", "02") + "eeff", simple("00")},
			{request("0008", "0007", "00", "10"), chunk("0001", "0005", "0c") + "00000001 00000010 00000000"},
			{request("0008", "0007", "00", "00"), chunk("0001", "8001", "2b") + "00000016 0025" +
				hex.EncodeToString([]byte("block status failed: Invalid argument"))},
		},
		"extended": {{clientOK, ""}, extended, setBase, start("1ded"),
			{requestExt("0000", "0000", "02", "02"), chunkExt("0001", "0001", "02", "0a") + "0000000000000002 0203"},
			{requestExt("0020", "0001", "02", "02") + "eeff", chunkExt("0001", "0000", "02", "00")},
			{requestExt("0000", "0001", "02", "02") + "eeff", chunkExt("0001", "0000", "02", "00")},
			{requestExt("0000", "0007", "00", "10"), chunkExt("0001", "0006", "00", "18") + "00000001 00000001 0000000000000010 0000000000000000"},
			{requestExt("0020", "0007", "00", "0c") + "0000000000000008 00000001",
				chunkExt("0001", "0006", "00", "18") + "00000001 00000001 0000000000000008 0000000000000000"},
			{requestExt("0000", "0002", "00", "00"), "EOF"}},
	} {
		t.Run(name, func(t *testing.T) { converse(t, talk) })
	}
}

func converse(t *testing.T, talk []exchange) {
	dev := newMemory(1024)
	for i := range dev.b {
		dev.b[i] = byte(i)
	}
	s := server.New(server.Config{})
	if err := s.AddExport(&server.Export{Device: dev, MultiConn: true}); err != nil {
		t.Fatal(err)
	}
	ours, theirs := net.Pipe()
	done := make(chan struct{})
	go func() {
		s.ServeConn(context.Background(), theirs)
		close(done)
	}()
	defer func() {
		ours.Close()
		<-done
	}()
	ours.SetDeadline(time.Now().Add(time.Minute))
	expect(t, ours, greeting)
	for i, x := range talk {
		if _, err := ours.Write(unhex(t, x.say)); err != nil && x.hear != "EOF" {
			t.Fatalf("say %d: %v", i, err)
		}
		if want, ok := strings.CutPrefix(x.hear, "? "); ok {
			b := make([]byte, wire.OptionReplyHeaderLen)
			if _, err := io.ReadFull(ours, b); err != nil {
				t.Fatal(err)
			}
			h, err := wire.ParseOptionReplyHeader(b)
			if err != nil || h.Type.String() != "error "+want {
				t.Fatalf("step %d: got %v, %v, want error %s", i, h.Type, err, want)
			}
			io.CopyN(io.Discard, ours, int64(h.Length))
			continue
		}
		expect(t, ours, x.hear)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	if want == "EOF" {
		if b, err := io.ReadAll(c); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "closed pipe") {
			t.Fatalf("got %x, %v instead of the end", b, err)
		}
		return
	}
	w := unhex(t, want)
	b := make([]byte, len(w))
	n, err := io.ReadFull(c, b)
	if err != nil || string(b) != string(w) {
		t.Fatalf("got  %x, %v\nwant %x", b[:n], err, w)
	}
}
