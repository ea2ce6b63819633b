package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"regexp"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	sdkworker "go.temporal.io/sdk/worker"

	"hallpass/access"
)

// devel is the version of a program that was built from no commit: two
// of them may be different, so it can't be a build id.
const devel = "(devel)"

// setCurrent is what an operator types to have new requests run by a build.
const setCurrent = "temporal worker deployment set-current-version --deployment-name %s --build-id %s"

// versioning says which build of which deployment this worker's workflows run
// on: Temporal's Worker Versioning. The zero value, where no deployment is
// configured, is a worker that takes whatever there is.
func (c *Config) versioning() (o sdkworker.DeploymentOptions, err error) {
	if c.Temporal.Deployment == "" {
		return o, nil
	}
	build := cmp.Or(c.Temporal.Build, c.Version)
	if build == "" || build == devel {
		return o, access.Errorf(access.CodeMalformed, "temporal.deployment is set, and this program doesn't know its version").
			WithHint("name the build in temporal.build or HALLPASS_TEMPORAL_BUILD")
	}
	if err := checkBuild(build); err != nil {
		return o, access.Errorf(access.CodeMalformed, "the version of this program: %v", err).
			WithHint("name the build in temporal.build or HALLPASS_TEMPORAL_BUILD")
	}
	return sdkworker.DeploymentOptions{
		UseVersioning: true,
		Version:       sdkworker.WorkerDeploymentVersion{DeploymentName: c.Temporal.Deployment, BuildID: build},
	}, nil
}

// Temporal takes longer ones, and more characters in build ids. These go into
// its queries and an operator's shell as they are.
var (
	deploymentName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$`)
	buildID        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}$`)
)

func checkDeployment(s string) error {
	if !deploymentName.MatchString(s) {
		return fmt.Errorf("%q is no name of a deployment: up to 63 letters, digits, - and _", s)
	}
	return nil
}

func checkBuild(s string) error {
	if !buildID.MatchString(s) {
		return fmt.Errorf("%q is no build id: up to 128 letters, digits and . _ + -", s)
	}
	return nil
}

// askBuild says which build this worker is and what it gets to do, "" where
// builds aren't told apart. None of it is a reason not to be ready: a build has
// to be, before an operator makes it the current one, and after that for as
// long as it has requests of its own.
func (p *parts) askBuild(ctx context.Context) (as string, gets bool) {
	o, err := p.config.versioning()
	cl := p.temporal.Load()
	if err != nil || cl == nil || !o.UseVersioning {
		return "", false
	}
	version := o.Version
	as = fmt.Sprintf(" as build %s of %s", version.BuildID, version.DeploymentName)
	is, err := (*cl).WorkerDeploymentClient().GetHandle(version.DeploymentName).Describe(ctx, client.WorkerDeploymentDescribeOptions{})
	var absent *serviceerror.NotFound // until the first poll
	if err != nil && !errors.As(err, &absent) {
		return as + ", and Temporal doesn't say whether it is the current one: " + cause(err), false
	}
	routing := is.Info.RoutingConfig
	if routing.CurrentVersion != nil && *routing.CurrentVersion == version {
		return as + ", the current one", true
	}
	if routing.RampingVersion != nil && *routing.RampingVersion == version {
		return fmt.Sprintf("%s, which gets %g %% of new requests", as, routing.RampingVersionPercentage), true
	}
	for _, v := range is.Info.VersionSummaries {
		if v.Version != version {
			continue
		}
		switch v.DrainageStatus {
		case client.WorkerDeploymentVersionDrainageStatusDraining:
			return as + ", which gets no new requests and has old ones", false
		case client.WorkerDeploymentVersionDrainageStatusDrained:
			return as + ", which has no requests any more and can go", false
		}
	}
	return as + ", which gets no requests before it is the current one", false
}

// sayBuild logs what this build gets to do. One that gets nothing looks idle,
// and requests that nobody takes look lost.
func (p *parts) sayBuild(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	as, gets := p.askBuild(ctx)
	if gets || ctx.Err() != nil {
		p.log.Info("polls" + as)
		return
	}
	p.log.Warn("polls"+as, "hint", fmt.Sprintf(setCurrent, p.config.Temporal.Deployment, cmp.Or(p.config.Temporal.Build, p.config.Version)))
}
