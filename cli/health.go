package cli

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/urfave/cli/v2"

	"hallpass/worker"
)

// healthTimeout is longer than a worker takes to ask all its parts.
const healthTimeout = 10 * time.Second

func (a *app) healthCommand() *cli.Command {
	return &cli.Command{
		Name:     "health",
		Usage:    "ask a worker whether it is ready, and what is wrong if it isn't",
		Category: categoryOperate,
		Description: "Asks at health.address, so it works where the worker runs: in its container, for one.\n" +
			"Ends with 0 if it is ready, and with 5 if it isn't or nobody answers.",
		Action: a.health,
	}
}

func (a *app) health(c *cli.Context) error {
	if _, err := arguments(c); err != nil {
		return err
	}
	cfg, err := a.settings()
	if err != nil {
		return err
	}
	if cfg.Health.Address == "" {
		return failf(ExitNotFound, "health.address is not configured").withHint("name it in hallpass.yaml or in HALLPASS_HEALTH_ADDRESS, such as 127.0.0.1:9464")
	}
	request, err := http.NewRequestWithContext(a.ctx, http.MethodGet, "http://"+cfg.Health.Address+"/ready", nil)
	if err != nil {
		return err
	}
	var is worker.Readiness
	var body []byte
	answer, err := (&http.Client{Timeout: healthTimeout}).Do(request)
	if err == nil {
		defer func() { _ = answer.Body.Close() }()
		body, err = io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	}
	if err != nil {
		return failf(ExitUnreachable, "no worker answers at %s: %w", cfg.Health.Address, plainly(err))
	}
	status := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}
	if json.Unmarshal(body, &is) != nil || len(is.Parts) == 0 || answer.StatusCode != status[is.Ready] {
		return failf(ExitError, "what answers at %s is not a worker of hallpass", cfg.Health.Address)
	}
	if a.json {
		err = a.out.json(is)
	} else {
		err = a.showFindings(is.Parts)
	}
	if err == nil && !is.Ready {
		err = failf(ExitUnreachable, "the worker is not ready")
	}
	return err
}

// plainly is an error of a call without the address in it, which is said
// already.
func plainly(err error) error {
	var call *url.Error
	if errors.As(err, &call) {
		err = call.Err
	}
	var dial *net.OpError
	if errors.As(err, &dial) {
		err = dial.Err
	}
	return err
}
