package worker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hallpass/access"
	"hallpass/audit"
	"hallpass/internal/wording"
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

// repeatRewritten is how often it is said of a log that it was rewritten, for as long
// as it is so: who looks a day later has to see it, and so has whoever counts errors.
const repeatRewritten = 5 * time.Minute

// published is how publishing goes. It is safe for concurrent use.
type published struct {
	log *slog.Logger

	mu     sync.Mutex
	looked bool
	since  time.Time // when the latest checkpoint was there last; at first, when publishing began
	size   int64
	err    error // what is wrong now
	said   time.Time
}

// took notes how an attempt went. What is wrong is said once for each reason.
func (p *published) took(now time.Time, size int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	before := p.err
	p.looked, p.err = true, err
	if err == nil {
		p.since, p.size = now, size
		if before != nil {
			p.log.Info("checkpoints are being published again", "size", size)
		}
		return
	}
	same := before != nil && before.Error() == err.Error()
	rewritten := access.CodeOf(err) == access.CodeUnverified
	if same && (!rewritten || now.Sub(p.said) < repeatRewritten) {
		return
	}
	p.said = now
	if rewritten {
		p.log.Error(rewrittenLog+": it doesn't go on from the published checkpoint", "error", wording.Line(err.Error()))
	} else {
		p.log.Warn("the checkpoint can't be published", "error", wording.Line(err.Error()))
	}
}

const rewrittenLog = "AUDIT LOG REWRITTEN OR CUT OFF"

// age is how long ago the latest checkpoint was there, in seconds.
func (p *published) age(context.Context) (float64, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.since).Seconds(), true
}

// ask says how it goes, for /ready.
func (p *published) ask(context.Context) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case !p.looked:
		return "", access.Errorf(access.CodeUnavailable, "hasn't been looked at yet")
	case access.CodeOf(p.err) == access.CodeUnverified:
		return "", access.Errorf(access.CodeUnverified, rewrittenLog+": %s", wording.Line(p.err.Error())).WithHint("hallpass audit verify; docs/operate.md, Checkpoints elsewhere")
	case p.err != nil:
		return "", p.err
	}
	return fmt.Sprintf("the checkpoint of %d events is published", p.size), nil
}

// publish publishes checkpoints until ctx ends. That it can't, or that the log isn't
// what it was, is no reason to stop working, or not to be ready: whoever can write to
// the place could end all revocations by that. It is one to say so.
func (p *parts) publish(ctx context.Context) error {
	state := &published{log: p.log, since: time.Now()}
	if err := p.health.metrics.watch("hallpass_checkpoint_age_seconds", "since the published checkpoint was the latest one", state.age); err != nil {
		return err
	}
	p.health.mention("published checkpoint", state.ask)
	for {
		place, err := p.config.place() // anew: tokens are changed
		size := int64(0)
		if err == nil {
			size, err = p.audit.Publish(ctx, place)
		}
		if ctx.Err() != nil {
			return nil
		}
		state.took(time.Now(), size, err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(publishEvery):
		}
	}
}
