package cli

import (
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"
)

// version is set by the linker (-ldflags "-X hallpass/cli.version=v1.2.3");
// otherwise what Go knows of the build is used.
var version string

// Build says which build this is.
type Build struct {
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"` // of the source, by version control
	Time     string `json:"time,omitempty"`     // of that revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the source had changes beside it
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func build() Build {
	b := Build{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH}
	if info, ok := debug.ReadBuildInfo(); ok {
		if b.Version == "" {
			b.Version = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "(devel)"
	}
	return b
}

func (a *app) versionCommand() *cli.Command {
	return &cli.Command{
		Name:     "version",
		Usage:    "say which build this is",
		Category: categoryHallpass,
		Action: func(c *cli.Context) error {
			if _, err := arguments(c); err != nil {
				return err
			}
			b := build()
			return a.print(b, func(p *printer) {
				p.Printf("hallpass %s\n", b.Version)
				revision := b.Revision
				if b.Modified {
					revision += " with changes"
				}
				p.fields("revision", revision, "time", b.Time, "go", b.Go, "platform", b.Platform)
			})
		},
	}
}
