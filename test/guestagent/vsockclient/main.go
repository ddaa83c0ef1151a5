// Command vsockclient sends its second argument to the vsock address that is the first,
// and prints the first line of the answer. It runs in the test guest.
package main

import (
	"bufio"
	"context"
	"fmt"
	"os"

	"github.com/cowl-disk/cowl/internal/vsock"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
}

func run(address, request string) error {
	c, err := vsock.Dial(context.Background(), address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte(request)); err != nil {
		return err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	fmt.Print(line)
	return err
}
