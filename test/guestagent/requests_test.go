//go:build linux

package guestagent

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// volatile is what differs from one moment or process to the next.
var volatile = []struct {
	re *regexp.Regexp
	by string
}{
	{regexp.MustCompile(`"version": "1[0-9.]+"`), `"version": V`},
	{regexp.MustCompile(`"(tx|rx)-(packets|errs|bytes|dropped)": \d+`), `"$1-$2": N`},
	{regexp.MustCompile(`"(read|write|discard|flush|total|weight)-(ticks|sectors|ios|merges)": \d+|"ios-pgr": \d+`), `"$1-$2": N`},
	{regexp.MustCompile(`"(user|nice|system|idle|iowait|irq|softirq|steal|guest|guestnice|used-bytes|total-bytes|use|refcnt)": \d+`), `"$1": N`},
	{regexp.MustCompile(`"load(1|5|15)m": [0-9.e+-]+`), `"load": N`},
	{regexp.MustCompile(`"return": 1[0-9]{18}\b`), `"return": TIME`},
	{regexp.MustCompile(`"pid": \d+`), `"pid": PID`},
	// Known faults of QEMU's agent.
	{regexp.MustCompile(`PID (ld|-?\d+) does not exist`), `PID N does not exist`},              // a format without its %
	{regexp.MustCompile(`"flags": 1844674407\d+|"flags": 2\d{9}\b`), `"flags": SIGN`},          // sign extension
	{regexp.MustCompile(`"metric": (-1|4294967295)\b`), `"metric": ALL`},                       // a signed metric
	{regexp.MustCompile(`failed to lookup user '(.*?)': [^"]*`), `failed to lookup user '$1'`}, // "Success"
	{regexp.MustCompile(`"serial": "[^"]*", `), ``},                                            // found by udev only
	{regexp.MustCompile(`, "alias": "[^"]*"`), ``},                                             // as well
	// 10.0 has other words.
	{regexp.MustCompile(`"desc": "open\(\\"(.*?)\\"\)`), `"desc": "Could not open '$1'`},
	// 10.2 always says whether output was cut, 10.0 only when it was.
	{regexp.MustCompile(`, "(out|err)-truncated": false|"(out|err)-truncated": false, `), ``},
}

func normal(s string) string {
	for _, v := range volatile {
		s = v.re.ReplaceAllString(s, v.by)
	}
	return s
}

// command makes a request.
func command(name, args string) string {
	if args == "" {
		return fmt.Sprintf(`{"execute":"%s"}`, name)
	}
	return fmt.Sprintf(`{"execute":"%s","arguments":%s}`, name, args)
}

// readOnly are requests that change nothing on the machine that the tests run on.
func readOnly() []string {
	var list []string
	add := func(name string, args ...string) {
		if len(args) == 0 {
			args = []string{""}
		}
		for _, a := range args {
			list = append(list, command(name, a))
		}
	}
	plain := []string{"", `{}`, `{"x":1}`, `{"x":1,"y":2,"z":3,"foo":4}`, `[]`, `null`}
	for _, name := range []string{"guest-ping", "guest-info", "guest-get-time", "guest-fsfreeze-status", "guest-get-osinfo",
		"guest-get-host-name", "guest-get-users", "guest-get-timezone", "guest-network-get-interfaces", "guest-network-get-route", "guest-get-vcpus",
		"guest-get-memory-blocks", "guest-get-memory-block-info", "guest-get-fsinfo", "guest-get-disks", "guest-get-diskstats",
		"guest-get-cpustats", "guest-get-load"} {
		add(name, plain...)
	}
	ints := []string{`{}`, `{"id":0}`, `{"id":-0}`, `{"id":1.0}`, `{"id":1e3}`, `{"id":"1"}`, `{"id":null}`, `{"id":true}`, `{"id":[]}`, `{"id":{}}`,
		`{"id":9223372036854775807}`, `{"id":9223372036854775808}`, `{"id":-9223372036854775808}`, `{"id":-9223372036854775809}`,
		`{"id":18446744073709551616}`, `{"id":1,"x":2}`, `{"x":2}`}
	add("guest-sync", ints...)
	add("guest-sync-delimited", ints...)
	add("guest-file-open", `{}`, `{"path":1}`, `{"path":"/nonexistent/x"}`, `{"path":"/etc","mode":"w"}`, `{"path":"/etc/passwd","mode":"rw"}`,
		`{"path":"x","mode":7}`, `{"path":"","mode":"r"}`, `{"path":"/etc/passwd","mode":""}`, `{"path":"/etc/passwd/x"}`, `{"mode":"r"}`)
	for _, name := range []string{"close", "read", "flush"} {
		add("guest-file-"+name, `{}`, `{"handle":1}`, `{"handle":"x"}`, `{"handle":-1}`, `{"handle":1,"count":"x"}`)
	}
	add("guest-file-write", `{}`, `{"handle":1}`, `{"handle":1,"buf-b64":"YQ=="}`, `{"handle":1,"buf-b64":"!"}`, `{"handle":1,"buf-b64":7}`)
	add("guest-file-seek", `{}`, `{"handle":1,"offset":0}`, `{"handle":1,"offset":0,"whence":0}`, `{"handle":1,"offset":0,"whence":"bad"}`,
		`{"handle":1,"offset":0,"whence":1.5}`, `{"handle":1,"offset":0,"whence":[]}`, `{"handle":1,"offset":0,"whence":true}`,
		`{"handle":1,"offset":0,"whence":null}`, `{"handle":1,"offset":0,"whence":18446744073709551615}`, `{"handle":1,"offset":"0","whence":"set"}`)
	add("guest-exec", `{}`, `{"path":7}`, `{"path":"/bin/x-y-z"}`, `{"path":"x-y-z"}`, `{"path":"/etc"}`, `{"path":"/etc/passwd"}`, `{"path":""}`,
		`{"path":"true","arg":"x"}`, `{"path":"true","arg":[1]}`, `{"path":"true","arg":["a",null]}`, `{"path":"true","env":{}}`,
		`{"path":"true","input-data":"!"}`, `{"path":"true","capture-output":"all"}`, `{"path":"true","capture-output":1}`,
		`{"path":"true","capture-output":null}`, `{"path":"true","capture-output":["none"]}`, `{"path":"true","foo":1}`,
		`{"path":"x-y-z","env":["PATH=/etc"]}`, `{"path":"passwd","env":["PATH=/etc"]}`, `{"path":"x","env":[]}`)
	add("guest-exec-status", `{}`, `{"pid":0}`, `{"pid":-1}`, `{"pid":"x"}`, `{"pid":1}`)
	add("guest-set-vcpus", `{}`, `{"vcpus":{}}`, `{"vcpus":[]}`, `{"vcpus":[1]}`, `{"vcpus":[{}]}`, `{"vcpus":[{"logical-id":9999,"online":true}]}`,
		`{"vcpus":[{"logical-id":9999}]}`, `{"vcpus":[{"logical-id":9999,"online":1}]}`, `{"vcpus":[{"logical-id":9999,"online":true,"x":1}]}`,
		`{"vcpus":[{"logical-id":9999,"online":true,"can-offline":7}]}`)
	add("guest-set-memory-blocks", `{}`, `{"mem-blks":[]}`, `{"mem-blks":[{"phys-index":99999,"online":true}]}`, `{"mem-blks":[{"phys-index":"x","online":true}]}`,
		`{"mem-blks":[{"phys-index":1.5,"online":true}]}`, `{"mem-blks":[{"phys-index":99999}]}`)
	add("guest-set-time", `{"time":"x"}`, `{"time":1.5}`, `{"foo":1}`, `{"time":9223372036854775807}`)
	add("guest-shutdown", `{"mode":"bad"}`, `{"mode":1}`, `{"foo":1}`)
	add("guest-fsfreeze-freeze", `{"x":1}`)
	add("guest-fsfreeze-freeze-list", `{"mountpoints":"x"}`, `{"mountpoints":[1]}`)
	add("guest-fstrim", `{"minimum":"x"}`)
	add("guest-set-user-password", `{}`, `{"username":"x"}`, `{"username":"x","password":"YQ=="}`, `{"username":"x","password":"!","crypted":false}`,
		`{"username":"x:y","password":"YQ==","crypted":false}`, `{"username":"x","password":"YQpi","crypted":false}`)
	add("guest-ssh-get-authorized-keys", `{}`, `{"username":"no-such-user"}`, `{"username":1}`)
	add("guest-ssh-add-authorized-keys", `{}`, `{"username":"no-such-user","keys":[]}`, `{"username":"no-such-user","keys":["#"]}`,
		`{"username":"no-such-user","keys":["a\nb"]}`, `{"username":"x","keys":"y"}`, `{"username":"x","keys":[1]}`)
	add("guest-ssh-remove-authorized-keys", `{}`, `{"username":"no-such-user","keys":["#"]}`, `{"username":"no-such-user","keys":["x"]}`)
	add("guest-no-such-command", "", `{}`)
	add("guest-get-devices", "")
	return list
}

// odd are requests with something wrong or unusual about them.
var odd = []string{
	`{'execute':'guest-ping'}`, `{'execute':"guest-ping"}`, `{"execute":'guest-ping','id':'it\'s'}`, "{\"execute\"\t:\r\n\"guest-ping\"}",
	`[]`, `"x"`, `true`, `null `, `42 `, `-1 `, `1.5 `, `{}`, `{}{}`, `[1,2,{"a":[]}]`, `'x'`,
	`{"execute":"guest-ping",}`, `{,"execute":"guest-ping"}`, `{"execute":}`, `{"execute"}`, `{"execute" "guest-ping"}`, `}`, `]`, `:`, `,`,
	`{execute:"guest-ping"}`, `hello`, `{"a":1,"a":2}`, `{1:2}`, `{"execute":"guest-ping"]`, `["a"}`, `[1 2]`, `[1,]`, `{]`, `[}`, `{[}]`, `[{]}`,
	`{"a":1 "b":2}`, `{"a":tru}`, `{"a":True}`, `{"a":nul}`, `{"a":/}`, `%d`, `{"a":%s}`, `+1`, `{"a":+1}`, "\xff", "\xfe", "\x00", "a\x00b", "\x7f", "\x1b[A",
	`{"execute":"guest-pi` + "\n" + `ng"}`, "{\"execute\":\"guest\x01ping\"}", `01`, `1. `, `.5`, `1e`, `1e+ `, `1e5 `, `-`, `--1`, `-a`, `1.5e`, `0x10`, `00`,
	`{"execute":"\x"}`, `{"execute":"\u12"}`, `{"execute":"\u123g"}`, `{"execute":"\ud800"}`, `{"execute":"\ud800\u0041"}`, `{"execute":"\ud83d\ude00"}`,
	`{"execute":"\udc00"}`, `{"execute":"\uffff"}`, `{"execute":"\ufdd0"}`, `{"execute":"\u"}`, `{"execute":"\u0000x"}`, "{\"execute\":\"\xc0\x80\"}",
	"{\"execute\":\"\xc3\x28\"}", "{\"execute\":\"\xe2\x82\"}", "{\"execute\":\"\xf0\x9f\x98\x80\"}", "{\"execute\":\"\xed\xa0\x80\"}",
	"{\"execute\":\"\xf8\x88\x80\x80\x80\"}", "{\"execute\":\"\x80\"}", "{\"execute\":\"\xc1\xbf\"}", "{\"execute\":\"é\"}", "{\"execute\":\"\x7f\"}",
	`{"execute":"\b\f\n\r\t\/\\\""}`, `{"execute":1}`, `{"execute":null}`, `{"execute":["guest-ping"]}`, `{"arguments":{}}`, `{"execute":"guest-ping","arguments":[]}`,
	`{"execute":"guest-ping","arguments":null}`, `{"execute":"guest-ping","arguments":"x"}`, `{"exec-oob":"guest-ping"}`, `{"execute":"guest-ping","exec-oob":"x"}`,
	`{"execute":"guest-ping","control":{}}`, `{"execute":"guest-ping","foo":1,"bar":2}`, `{"execute":1,"arguments":1,"id":5}`, `{"id":7}`, `{"id":7,"execute":"x"}`,
	`{"execute":"guest-ping","id":1}`, `{"execute":"guest-ping","id":"x"}`, `{"execute":"guest-ping","id":null}`, `{"execute":"guest-ping","id":true}`,
	`{"execute":"guest-ping","id":[1,"a",null,{"b":false}]}`, `{"execute":"guest-ping","id":{"z":1,"a":2,"m":{"y":[]}}}`, `{"execute":"guest-ping","id":1.10}`,
	`{"execute":"guest-ping","id":1e400}`, `{"execute":"guest-ping","id":-1e400}`, `{"execute":"guest-ping","id":1e-400}`, `{"execute":"guest-ping","id":18446744073709551615}`,
	`{"execute":"guest-ping","id":18446744073709551616}`, `{"execute":"guest-ping","id":-9223372036854775809}`, `{"execute":"guest-ping","id":-0}`,
	`{"execute":"guest-ping","id":-0.0}`, `{"execute":"guest-ping","id":[1e16,1e17,123456789012345678.0,0.0001,0.00001,1e22,1e23,3.0,100000000000000000000.5]}`,
	`{"execute":"guest-ping","id":"\u00e9\ud83d\ude00\u0001\u007f"}`, `{"execute":"guest-pong","id":{"k":1}}`, `{"execute":"guest-ping","id":1,"x":2}`,
	`{"execute":"guest-ping"}{"execute":"guest-sync","arguments":{"id":5}}`, "{\"execute\":\"guest-sync-delimited\"}{\"execute\":\"guest-ping\"}",
	`{"execute":"guest-sync-delimited","arguments":{"id":1}}{"execute":"guest-ping"}`, "\xff" + `{"execute":"guest-sync-delimited","arguments":{"id":1}}`,
	`{"execute":"guest-sync","arguments":{"id":{"a":1,"b":2}}}`, strings.Repeat("[", 1025), strings.Repeat("[", 1024) + strings.Repeat("]", 1024),
	strings.Repeat(`{"a":`, 1026) + "1" + strings.Repeat("}", 1026), strings.Repeat("}", 50), `{"` + strings.Repeat("k", 2000) + `":`, strings.Repeat("x", 3000) + " ",
	`{"execute":"` + strings.Repeat("e", 5000) + `"}`, `"` + strings.Repeat(`\u0041`, 1000) + `"`, `{"execute":"guest-ping","id":"` + strings.Repeat("ü", 3000) + `"}`,
	`{"execute":"guest-ping","arguments":{"aa":1,"bb":2,"cc":3,"dd":4,"ee":5,"ff":6,"gg":7,"hh":8,"ii":9,"jj":10,"kk":11,"ll":12}}`,
	`{"execute":"guest-sync","arguments":{"id":1,"aa":1,"bb":2,"cc":3,"dd":4,"ee":5,"ff":6,"gg":7,"hh":8,"ii":9}}`,
	"{\"execute\":\"guest-ping\"}\r\n\r\n", "  \t ", "\n\n\n", `{"execute":"guest-ping"}` + "\x00\x00", `{"a":"` + "\t" + `"}`, `{"a":"x` + "\r\n" + `y"}`,
	`"\"`, `'\''`, `"'"`, `'"'`, `{"execute":"guest-ping","id":'"'}`, `{true:1}`, `{null:1}`, `{[]:1}`, `{{}:1}`, `[[[[`, `{"a":{"b":{"c":`,
}

// TestRequests sends the same requests to both agents: whole, byte by byte, and in
// pieces.
func TestRequests(t *testing.T) {
	requests := append(readOnly(), odd...)
	if len(requests) < 300 {
		t.Errorf("only %d requests", len(requests))
	}
	their, our := start(t, theirs(t)), start(t, ours)
	for _, piece := range []int{0, 1, 7} {
		compareRequests(t, their, our, requests, piece)
	}
	t.Logf("%d requests", len(requests))
}

// position is what QEMU has before parse errors from 11.1 on: line and column.
var position = regexp.MustCompile(`"desc": "\d+:\d+: JSON`)

// TestRequestsNewest does so beside the newest version, in the directory that
// COWL_QEMU_NEWEST names. What is no JSON is left out: its parser has other words.
func TestRequestsNewest(t *testing.T) {
	dir := os.Getenv("COWL_QEMU_NEWEST")
	if dir == "" {
		t.Skip("COWL_QEMU_NEWEST does not name a directory with the newest version of QEMU's tools")
	}
	compareRequests(t, start(t, filepath.Join(dir, "qemu-ga")), start(t, ours), readOnly(), 0)
}

func compareRequests(t *testing.T, their, our *agent, requests []string, piece int) {
	t.Helper()
	for _, r := range requests {
		if piece > 0 && len(r) > 4000 {
			continue
		}
		want, got := normal(position.ReplaceAllString(their.ask(r, piece), `"desc": "JSON`)), normal(our.ask(r, piece))
		if got != want {
			t.Errorf("%.300q in pieces of %d:\n got %.1500s\nwant %.1500s", r, piece, got, want)
		}
	}
}
