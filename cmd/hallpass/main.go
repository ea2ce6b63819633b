// Command hallpass asks for access, decides on it, and runs what issues it.
//
// It has no Temporal server in it: that would be three quarters of its size
// and most of the time that it takes to start. What needs one, hallpass dev,
// goes on in hallpass-dev, which is installed beside it.
package main

import (
	"os"

	"hallpass/cli"
)

func main() {
	os.Exit(cli.Run(os.Exit, cli.WithServerIn("hallpass-dev")))
}
