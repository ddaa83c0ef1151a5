//go:build linux

package linux

import (
	"bytes"
	"context"
	"encoding/binary"
	"os"

	"github.com/cowl-disk/cowl/guestagent"
)

// User is somebody who is logged in.
type User struct {
	Name  string  `qga:"user"`
	Login float64 `qga:"login-time"` // seconds since 1970
}

// A record of utmp(5), on all 64-bit systems.
const (
	utmpBytes       = 384
	utmpUser        = 44
	utmpUserBytes   = 32
	utmpTime        = 340 // seconds and microseconds, 32 bits each
	utmpUserProcess = 7
	maxUtmp         = 64 << 20
)

func (s *System) users(context.Context, guestagent.None) ([]User, error) {
	data, err := os.ReadFile(s.path("/var/run/utmp"))
	if err != nil || len(data) > maxUtmp {
		return []User{}, nil
	}
	return parseUtmp(data), nil
}

// parseUtmp lists the users in the order of the file, with their earliest login.
func parseUtmp(data []byte) []User {
	users := []User{}
	index := map[string]int{}
	for ; len(data) >= utmpBytes; data = data[utmpBytes:] {
		if binary.NativeEndian.Uint16(data) != utmpUserProcess {
			continue
		}
		name, _, _ := bytes.Cut(data[utmpUser:utmpUser+utmpUserBytes], []byte{0})
		sec, usec := binary.NativeEndian.Uint32(data[utmpTime:]), binary.NativeEndian.Uint32(data[utmpTime+4:])
		login := float64(int32(sec)) + float64(int32(usec))/1e6
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
