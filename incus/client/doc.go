// Package client imports images into the Incus server of this machine, by the image API
// on its Unix socket (https://linuxcontainers.org/incus/docs/main/rest-api/).
//
// What the server answers is bounded, and all waiting ends with the context.
package client
