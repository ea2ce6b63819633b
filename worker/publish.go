package worker

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"hallpass/access"
	"hallpass/audit"
)

// publishEvery is how often the latest checkpoint is published, if there is a
// new one.
const publishEvery = 10 * time.Second

// place is where checkpoints are published, and with what header.
func (c *Config) place() (audit.Place, error) {
	place := audit.Place{Name: c.Audit.Publish}
	if c.Audit.PublishAuthorization == "" {
		return place, nil
	}
	line, err := readSecret(c.Audit.PublishAuthorization)
	if err != nil {
		return place, fmt.Errorf("read audit.publish_authorization: %w", err)
	}
	place.Authorization = string(line)
	return place, nil
}

// publish publishes checkpoints until ctx ends. That it can't is no reason to
// stop working, but one to say so, once for each reason.
func (p *parts) publish(ctx context.Context) error {
	said := ""
	var published atomic.Int64 // when it was there last, in Unix seconds; 0: not yet
	began := time.Now()
	err := p.health.metrics.watch("hallpass_checkpoint_age_seconds", "since the published checkpoint was the latest one", func(context.Context) (float64, bool) {
		if at := published.Load(); at != 0 {
			return time.Since(time.Unix(at, 0)).Seconds(), true
		}
		return time.Since(began).Seconds(), true
	})
	if err != nil {
		return err
	}
	for {
		place, err := p.config.place() // anew: tokens are changed
		size := int64(0)
		if err == nil {
			size, err = p.audit.Publish(ctx, place)
		}
		if err == nil {
			published.Store(time.Now().Unix())
		}
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil && said != "":
			p.log.Info("checkpoints are being published again", "size", size)
			said = ""
		case err != nil && err.Error() != said:
			said = err.Error()
			if access.CodeOf(err) == access.CodeUnverified {
				p.log.Error("AUDIT LOG REWRITTEN OR CUT OFF: it doesn't go on from the published checkpoint", "error", oneLine(said))
			} else {
				p.log.Warn("the checkpoint can't be published", "error", oneLine(said))
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishEvery):
		}
	}
}
