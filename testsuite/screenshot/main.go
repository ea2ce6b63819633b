// Screenshot takes the picture of the README: a request that waits for its
// second approval, as operators see it in the Temporal UI. Everything in it is
// real: hallpass dev in a temporary folder, statements signed by keys made for
// the occasion, and headless Chromium.
//
//	go run ./testsuite/screenshot -hallpass bin/hallpass -o docs/images/temporal-ui.png
//
// It needs chromium (Debian: chromium) and ssh-keygen (openssh-client), and
// takes about ten seconds.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/draw"
	"image/png"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	width, height = 1600, 1200 // of the browser's window, in CSS pixels
	sidebar       = 257        // of it, at the left, that the picture leaves out
	border        = 3          // the same at the right
	policy        = `rules:
  - name: production
    when: resource.labels.env == "prod"
    max_duration: 8h
    require: {reason: true}
    approvals:
      - {count: 1, from: [sre]}
      - {count: 1, from: [security]}
    approval_window: 1h
`
	catalog = `resources:
  ssh/web-1: {labels: {env: prod}, logins: [deploy]}
`
)

// groups of the people in the picture.
var groups = map[string]string{"alice": "dev", "bob": "sre", "carol": "security"}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	hallpass := flag.String("hallpass", "bin/hallpass", "the `program` to run")
	chromium := flag.String("chromium", "chromium", "the `browser` to run")
	out := flag.String("o", "docs/images/temporal-ui.png", "`file` to write")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	ctx, cancel = context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()

	stage := stage{ctx: ctx}
	if stage.hallpass, err = filepath.Abs(*hallpass); err != nil {
		return err
	}
	if stage.dir, err = os.MkdirTemp("", "hallpass-screenshot-"); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(stage.dir)) }()
	if err := stage.write(); err != nil {
		return err
	}
	ui, stop, err := stage.dev()
	if err != nil {
		return err
	}
	defer stop()

	id, err := stage.as("alice", "request", "ssh/web-1", "--for", "30m", "--reason", "restart nginx", "--no-wait")
	if err != nil {
		return err
	}
	if _, err := stage.as("bob", "approve", id); err != nil {
		return err
	}

	b, err := launch(ctx, *chromium, stage.path("chromium"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	picture, err := shoot(b, ui+"/namespaces/default/workflows/access-"+id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(*out), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(*out, picture, 0o644); err != nil {
		return err
	}
	fmt.Printf("%s, %d kB\n", *out, len(picture)/1000)
	return nil
}

// shoot takes what the picture shows from two tabs of the request's page, and
// puts one below the other.
func shoot(b *browser, url string) ([]byte, error) {
	page, err := b.open(url)
	if err != nil {
		return nil, err
	}
	var parts []image.Image
	for _, part := range []struct {
		tab   string
		texts []string // that have to be there
		clip  string   // script that tells the top and the bottom
	}{
		{"User Metadata", []string{"alice wants ssh/web-1 as deploy for 30m", "approved by bob", "missing: 1 from security"},
			"[document.querySelector('h1').getBoundingClientRect().top - 12, Math.max(...[...document.querySelectorAll('iframe')].map(f => f.getBoundingClientRect().bottom)) + 20]"},
		{"Timeline", []string{"Auto Refresh On", "Decide"},
			"(r => [r.top, r.bottom + 16])([...document.querySelectorAll('h2')].find(h => h.innerText === 'Timeline').closest('.sticky').parentElement.getBoundingClientRect())"},
	} {
		if err := page.click(part.tab); err != nil {
			return nil, err
		}
		if err := page.await(part.texts...); err != nil {
			return nil, err
		}
		var edge [2]int
		if err := page.evaluate("("+part.clip+").map(Math.round)", &edge); err != nil {
			return nil, err
		}
		img, err := page.picture(image.Rect(sidebar, edge[0], width-border, edge[1]))
		if err != nil {
			return nil, err
		}
		parts = append(parts, img)
	}
	whole := image.NewRGBA(image.Rect(0, 0, width-sidebar-border, parts[0].Bounds().Dy()+parts[1].Bounds().Dy()))
	at := 0
	for _, part := range parts {
		draw.Draw(whole, image.Rect(0, at, whole.Rect.Dx(), at+part.Bounds().Dy()), part, part.Bounds().Min, draw.Src)
		at += part.Bounds().Dy()
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&out, whole)
	return out.Bytes(), err
}

// stage is the installation that the picture is of.
type stage struct {
	ctx           context.Context
	hallpass, dir string
}

func (s stage) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// write makes a key for everybody, and the files of hallpass dev.
func (s stage) write() error {
	dev := s.path("dev")
	if err := os.Mkdir(dev, 0o700); err != nil {
		return err
	}
	directory := "users:\n"
	for name, group := range groups {
		key := s.path(name + ".key")
		if out, err := exec.CommandContext(s.ctx, "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key).CombinedOutput(); err != nil {
			return fmt.Errorf("ssh-keygen: %w: %s", err, out)
		}
		public, err := os.ReadFile(key + ".pub")
		if err != nil {
			return err
		}
		directory += fmt.Sprintf("  %s:\n    groups: [%s]\n    keys:\n      - %s", name, group, public)
	}
	port, err := freePort()
	if err != nil {
		return err
	}
	uiPort, err := freePort()
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"hallpass.yaml": fmt.Sprintf("temporal: {address: \"127.0.0.1:%d\", namespace: default}\nui: http://127.0.0.1:%d\nissuers: {ssh: {key: \"file:ssh_ca\"}}\n", port, uiPort),
		"policy.yaml":   policy, "directory.yaml": directory, "catalog.yaml": catalog,
	} {
		if err := os.WriteFile(filepath.Join(dev, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// dev starts hallpass dev and returns the address of its Temporal UI.
func (s stage) dev() (ui string, stop func(), err error) {
	ready := s.path("ready.json")
	cmd := exec.Command(s.hallpass, "dev", "--dir", s.path("dev"), "--ready-file", ready)
	cmd.Env = s.environment("alice")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	var died error
	exited := make(chan struct{})
	go func() {
		died = cmd.Wait()
		close(exited)
	}()
	stop = func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			_ = cmd.Process.Kill()
		}
	}
	for {
		data, err := os.ReadFile(ready)
		if err == nil {
			var r struct {
				UI string `json:"ui"`
			}
			if err := json.Unmarshal(data, &r); err != nil {
				stop()
				return "", nil, err
			}
			return r.UI, stop, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			stop()
			return "", nil, err
		}
		select {
		case <-exited:
			return "", nil, fmt.Errorf("hallpass dev has stopped: %w", died)
		case <-s.ctx.Done():
			stop()
			return "", nil, s.ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// as runs hallpass as one of the people would and returns what it prints.
func (s stage) as(name string, args ...string) (string, error) {
	cmd := exec.CommandContext(s.ctx, s.hallpass, args...)
	cmd.Env = s.environment(name)
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s, as %s: %w: %s", cmd, name, err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}

func (s stage) environment(name string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.path(name),
		"HALLPASS_CONFIG=" + s.path("dev", "hallpass.yaml"),
		"HALLPASS_USER=" + name, "HALLPASS_KEY=" + s.path(name+".key"),
	}
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return l.Addr().(*net.TCPAddr).Port, l.Close()
}
