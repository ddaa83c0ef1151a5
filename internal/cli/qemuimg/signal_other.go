//go:build !unix

package qemuimg

// onInfoSignal does nothing: there are no such signals here.
func onInfoSignal(func()) (stop func()) { return func() {} }
