package cowl_test

import (
	"context"
	"errors"
	"fmt"
	"net"

	"github.com/cowl-disk/cowl"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

// A disk is served over NBD, and read by a client: an image with an nbd: name.
func Example_serve() {
	if err := serve(); err != nil {
		fmt.Println(err)
	}
	// Output:
	// 1048576 bytes, "hello"
}

func serve() error {
	ctx := context.Background()
	disk, err := cowl.Open(ctx, cowl.Source{Filename: "mem:", Options: map[string]any{"file.size": "1M"}, Format: "raw"},
		cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()})
	if err != nil {
		return err
	}
	defer disk.Close(ctx)
	dev, err := export.New(ctx, disk, export.Options{})
	if err != nil {
		return err
	}
	srv := server.New(server.Config{})
	if err := srv.AddExport(&server.Export{Name: "disk", Device: dev}); err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ctx, l) }()

	err = useDisk(ctx, "nbd://"+l.Addr().String()+"/disk")
	err = errors.Join(err, srv.Shutdown(ctx)) // clients are gone, what they wrote is flushed
	if e := <-served; !errors.Is(e, server.ErrClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// useDisk is the client.
func useDisk(ctx context.Context, url string) error {
	img, err := cowl.Open(ctx, cowl.Source{Filename: url, Format: "raw"}, cowl.OpenOptions{Write: true, Gate: cowl.DenyAll()})
	if err != nil {
		return err
	}
	if _, err := img.WriteAt(ctx, []byte("hello"), 4096); err != nil {
		return errors.Join(err, img.Close(ctx))
	}
	got := make([]byte, 5)
	_, err = img.ReadAt(ctx, got, 4096)
	fmt.Printf("%d bytes, %q\n", img.Size(), got)
	return errors.Join(err, img.Close(ctx))
}
