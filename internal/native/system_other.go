//go:build !linux

package native

import (
	"errors"
	"net"
	"os"
)

// socketPair is for systems where the program runs.
func socketPair() (net.Conn, *os.File, error) { return nil, nil, errors.ErrUnsupported }

func sharedMemory(int) ([]byte, *os.File, error) { return nil, nil, errors.ErrUnsupported }

func unmap([]byte) {}
