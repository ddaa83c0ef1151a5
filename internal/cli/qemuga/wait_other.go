//go:build !linux

package qemuga

func watch(string) (changed <-chan struct{}, stop func()) { return nil, func() {} }
