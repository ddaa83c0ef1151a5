package freebsd

import (
	"bytes"
	"encoding/binary"
)

// User is somebody who is logged in.
type User struct {
	Name  string  `qga:"user"`
	Login float64 `qga:"login-time"` // seconds since 1970
}

// A record of /var/run/utx.active: numbers are big-endian, without padding.
const (
	utxBytes       = 197
	utxTime        = 1 // microseconds since 1970, 64 bits
	utxUser        = 21
	utxUserBytes   = 32
	utxUserProcess = 4
	maxUtx         = 64 << 20
)

// parseUtx lists the users in the order of the file, with their earliest login.
func parseUtx(data []byte) []User {
	users := []User{}
	index := map[string]int{}
	for ; len(data) >= utxBytes; data = data[utxBytes:] {
		if data[0] != utxUserProcess {
			continue
		}
		name, _, _ := bytes.Cut(data[utxUser:utxUser+utxUserBytes], []byte{0})
		login := float64(binary.BigEndian.Uint64(data[utxTime:])) / 1e6
		i, ok := index[string(name)]
		if !ok {
			index[string(name)] = len(users)
			users = append(users, User{string(name), login})
		} else if login < users[i].Login {
			users[i].Login = login
		}
	}
	return users
}
