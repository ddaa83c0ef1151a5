package endtoend

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cowl-disk/cowl/block"
	"github.com/cowl-disk/cowl/block/driver"
	"github.com/cowl-disk/cowl/drivers"
	"github.com/cowl-disk/cowl/internal/testkit"
	"github.com/cowl-disk/cowl/nbd/client"
	"github.com/cowl-disk/cowl/nbd/export"
	"github.com/cowl-disk/cowl/nbd/server"
)

var nbdFormats = []string{"raw", "qcow2"}

// TestNBDMap holds block status of our server against that of QEMU.
func TestNBDMap(t *testing.T) {
	testkit.Tool(t, "qemu-nbd")
	testkit.Tool(t, "nbdinfo")
	for _, format := range nbdFormats {
		file := nbdImage(t, format)
		ours, stop := serveImage(t, file, format, false, server.Export{}, server.Config{})
		theirSock, stopTheirs := qemuNBD(t, file, format, "-r", "-A", "-e", "5")
		for _, context := range []string{"base:allocation", "qemu:allocation-depth"} {
			mine := testkit.Run(t, "nbdinfo", "--map="+context, nbdURI(ours, ""))
			theirs := testkit.Run(t, "nbdinfo", "--map="+context, nbdURI(theirSock, ""))
			if mine != theirs {
				t.Errorf("%s %s:\n%s\nthe original:\n%s", format, context, mine, theirs)
			}
		}
		// With extended headers, which this nbdinfo does not have but qemu-img has.
		mine := testkit.Run(t, "qemu-img", "map", "--output=json", "-f", "raw", nbdURI(ours, ""))
		theirs := testkit.Run(t, "qemu-img", "map", "--output=json", "-f", "raw", nbdURI(theirSock, ""))
		if mine != theirs {
			t.Errorf("%s:\n%s\nthe original:\n%s", format, mine, theirs)
		}
		stop()
		stopTheirs()
	}
}

// TestNBDInfo compares what nbdinfo says of our server and of QEMU.
func TestNBDInfo(t *testing.T) {
	testkit.Tool(t, "qemu-nbd")
	testkit.Tool(t, "nbdinfo")
	file := nbdImage(t, "raw")
	ours, _ := serveImage(t, file, "raw", false, server.Export{Name: "a b", Description: "my disk"}, server.Config{})
	theirs, _ := qemuNBD(t, file, "raw", "-r", "-A", "-x", "a b", "-D", "my disk", "-e", "3")
	info := func(sock string) map[string]any {
		var v map[string]any
		out := testkit.Run(t, "nbdinfo", "--json", "--list", nbdURI(sock, ""))
		if err := json.Unmarshal([]byte(out), &v); err != nil {
			t.Fatal(err)
		}
		for _, e := range v["exports"].([]any) {
			delete(e.(map[string]any), "uri")
		}
		return v
	}
	a, _ := json.Marshal(info(ours))
	b, _ := json.Marshal(info(theirs))
	if string(a) != string(b) {
		t.Errorf("%s\nthe original:\n%s", a, b)
	}
	mine := testkit.Run(t, "qemu-nbd", "-L", "-k", ours)
	its := testkit.Run(t, "qemu-nbd", "-L", "-k", theirs)
	if mine != its {
		t.Errorf("%s\nthe original:\n%s", mine, its)
	}
	for _, args := range [][]string{
		{"info", "-f", "raw", "NAME"},
		{"info", "--object", "tls-creds-anon,id=t,endpoint=client", "--image-opts", "driver=nbd,server.type=unix,server.path=SOCK,export=a b,tls-creds=t"},
	} {
		said := func(sock string) string {
			var a []string
			for _, s := range args {
				a = append(a, strings.NewReplacer("NAME", nbdURI(sock, "nope"), "SOCK", sock).Replace(s))
			}
			_, errOut, code := testkit.Try(t, "qemu-img", a...)
			if code == 0 {
				t.Errorf("%q succeeded", args)
			}
			return strings.ReplaceAll(errOut, sock, "SOCK")
		}
		if a, b := said(ours), said(theirs); a != b {
			t.Errorf("a client says: %s\nof QEMU: %s", a, b)
		}
	}
	if testkit.Installed("nbd-client") {
		out, errOut, _ := testkit.Try(t, "nbd-client", "-l", "-u", ours)
		if !strings.Contains(out, "a b") {
			t.Errorf("nbd-client -l: %s%s", out, errOut)
		}
	}
}

// TestNBDCopies moves whole disks through our server with the clients that people
// use.
func TestNBDCopies(t *testing.T) {
	testkit.Tool(t, "qemu-img")
	for _, format := range nbdFormats {
		file := nbdImage(t, format)
		dir := t.TempDir()
		want := filepath.Join(dir, "want.raw")
		testkit.Run(t, "qemu-img", "convert", "-f", format, "-O", "raw", file, want)
		ours, stop := serveImage(t, file, format, false, server.Export{}, server.Config{})
		testkit.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", nbdURI(ours, ""), want)
		testkit.Run(t, "nbdcopy", nbdURI(ours, ""), filepath.Join(dir, "out.raw"))
		testkit.Run(t, "cmp", filepath.Join(dir, "out.raw"), want)
		stop()

		target := filepath.Join(dir, "target."+format)
		testkit.Run(t, "qemu-img", "create", "-q", "-f", format, target, "64M")
		ours, stop = serveImage(t, target, format, true, server.Export{}, server.Config{})
		testkit.Run(t, "nbdcopy", want, nbdURI(ours, ""))
		stop()
		testkit.Run(t, "qemu-img", "compare", "-f", format, "-F", "raw", target, want)
		testkit.Run(t, "qemu-img", "create", "-q", "-f", format, target, "64M")
		ours, stop = serveImage(t, target, format, true, server.Export{}, server.Config{})
		testkit.Run(t, "qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", want, nbdURI(ours, ""))
		stop()
		testkit.Run(t, "qemu-img", "compare", "-f", format, "-F", "raw", target, want)
		if format == "qcow2" {
			testkit.Run(t, "qemu-img", "check", "-f", format, target)
		}
	}
}

// TestNBDWrites has qemu-io send all commands, and fio verify what it has written.
func TestNBDWrites(t *testing.T) {
	testkit.Tool(t, "qemu-io")
	for _, format := range nbdFormats {
		target := filepath.Join(t.TempDir(), "target")
		testkit.Run(t, "qemu-img", "create", "-q", "-f", format, target, "64M")
		sock, stop := serveImage(t, target, format, true, server.Export{}, server.Config{})
		out := testkit.Run(t, "qemu-io", "-f", "raw", "-c", "write -P 5 1000 5000", "-c", "write -f -P 6 1M 70000", "-c", "write -z 2000 1000",
			"-c", "write -z -u 1M 32k", "-c", "discard 8M 8M", "-c", "flush", "-c", "read -P 5 1000 1000", "-c", "read -P 0 2000 1000",
			"-c", "read -P 5 3000 3000", "-c", "read -P 0 1M 32k", "-c", "read -P 6 1081344 37232", "-c", "write -P 9 16M 20M", "-c", "read -P 9 16M 20M", nbdURI(sock, ""))
		if strings.Contains(out, "Pattern verification failed") || strings.Contains(out, "rror") {
			t.Errorf("%s", out)
		}
		if testkit.Installed("fio") && strings.Contains(testkit.Run(t, "fio", "--enghelp"), "nbd") {
			dir := t.TempDir()
			testkit.Run(t, "fio", "--name=v", "--ioengine=nbd", "--uri="+nbdURI(sock, ""), "--rw=randrw", "--bsrange=512-128k",
				"--iodepth=16", "--size=32m", "--io_size=16m", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--aux-path="+dir,
				"--output="+filepath.Join(dir, "fio.log"), "--verify_state_save=0")
		}
		stop()
		if format == "qcow2" {
			testkit.Run(t, "qemu-img", "check", "-f", format, target)
		}
		testkit.Run(t, "qemu-io", "-f", format, "-c", "read -P 5 1000 1000", "-r", target)
	}
}

// TestNBDSize exports disks whose sizes are not round, over TCP of both families.
func TestNBDSize(t *testing.T) {
	testkit.Tool(t, "qemu-nbd")
	for _, size := range []string{"0", "1000", "1048577"} {
		file := filepath.Join(t.TempDir(), "disk")
		testkit.Run(t, "truncate", "-s", size, file)
		ours, stop := serveImage(t, file, "raw", true, server.Export{}, server.Config{})
		mine := testkit.Run(t, "qemu-nbd", "-L", "-k", ours)
		stop()
		sock, stop := qemuNBD(t, file, "raw", "-e", "3", "-A")
		theirs := testkit.Run(t, "qemu-nbd", "-L", "-k", sock)
		stop()
		if mine != theirs {
			t.Errorf("size %s: %s\nthe original:\n%s", size, mine, theirs)
		}
	}
}

// TestNBDTCP serves over TCP of each family, and of both.
func TestNBDTCP(t *testing.T) {
	file := nbdImage(t, "raw")
	for _, address := range []string{"127.0.0.1:0", "[::1]:0", "localhost:0"} {
		listeners, err := server.Listen("tcp", address)
		if err != nil {
			t.Logf("%s: %v", address, err)
			continue
		}
		img, err := block.Open(t.Context(), block.NewRegistry(drivers.All()...), block.Source{Filename: file, Format: "raw"}, block.OpenOptions{Gate: driver.DenyAll})
		if err != nil {
			t.Fatal(err)
		}
		dev, err := export.New(t.Context(), img, export.Options{})
		if err != nil {
			t.Fatal(err)
		}
		s := server.New(server.Config{})
		if err := s.AddExport(&server.Export{Name: "a b", Device: dev, MultiConn: true}); err != nil {
			t.Fatal(err)
		}
		for _, l := range listeners {
			go s.Serve(context.Background(), l)
			uri := "nbd://" + l.Addr().String() + "/a%20b"
			testkit.Run(t, "qemu-img", "compare", "-f", "raw", "-F", "raw", uri, file)
			target, err := client.ParseURI(uri)
			if err != nil {
				t.Fatal(err)
			}
			c, err := client.Dial(t.Context(), client.Config{Network: target.Network, Address: target.Address, Export: target.Export})
			if err != nil {
				t.Fatal(err)
			}
			exerciseReads(t, c)
			c.Close()
		}
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		img.Close(t.Context())
	}
}

// exerciseReads reads the parts of nbdImage's raw disk.
func exerciseReads(t *testing.T, c *client.Conn) {
	t.Helper()
	for off, want := range map[int64]byte{0: 0, 1 << 20: 1, 8 << 20: 2, 63 << 20: 3} {
		p := make([]byte, 1<<20)
		if err := c.ReadAt(t.Context(), p, off); err != nil || p[0] != want || p[len(p)-1] != want {
			t.Errorf("at %d: %d, %v", off, p[0], err)
		}
	}
}
