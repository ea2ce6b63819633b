//go:build noserver

package embedded

import (
	"context"

	"hallpass/access"
	"hallpass/worker"
)

// Start fails: this build has no server.
func Start(context.Context, worker.ServerOptions) (worker.Server, error) {
	return nil, access.Errorf(access.CodeUnavailable, "this hallpass was built without the Temporal server (tag noserver)").
		WithHint("go build -tags disable_grpc_modules -o bin/hallpass ./cmd/hallpass")
}
