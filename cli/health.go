package cli

import (
	"encoding/json"
	"errors"
	"net/http"
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
			"Ends with 0 if it is ready, else with 5.",
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
	answer, err := (&http.Client{Timeout: healthTimeout}).Do(request)
	if err == nil {
		defer func() { _ = answer.Body.Close() }()
		err = json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 1<<20)).Decode(&is)
	}
	if err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return failf(ExitError, "what answers at %s is not a worker of hallpass", cfg.Health.Address)
		}
		return failf(ExitUnreachable, "no worker answers at %s: %v", cfg.Health.Address, err)
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
