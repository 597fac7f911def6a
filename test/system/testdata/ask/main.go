// Command ask looks up each line of its input, and prints the addresses, or why there are none.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"strings"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		addrs, err := net.LookupHost(lines.Text())
		if err != nil {
			fmt.Println(err)
			continue
		}
		fmt.Println(strings.Join(addrs, " "))
	}
}
