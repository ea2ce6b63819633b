// Command hallpass-dev is hallpass with a Temporal server in it, for the
// command dev. hallpass becomes it when it is asked for that; there is no need
// to call it by its name.
package main

import (
	"os"

	"hallpass/cli"
	"hallpass/worker/embedded"
)

func main() {
	os.Exit(cli.Run(os.Exit, cli.WithServer(embedded.Start)))
}
