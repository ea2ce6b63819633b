package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/png"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// browser is a headless Chromium that is spoken to by the DevTools protocol
// over a pipe: JSON messages with a zero byte behind each, in on its file
// descriptor 3 and out on 4 (--remote-debugging-pipe).
type browser struct {
	ctx  context.Context
	cmd  *exec.Cmd
	in   *os.File
	out  *os.File
	read *bufio.Reader
	last int
}

// launch starts a browser that keeps everything in dir and asks nothing of
// the network but what it is told to open.
func launch(ctx context.Context, program, dir string) (*browser, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), in.Close())
	}
	cmd := exec.CommandContext(ctx, program,
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--hide-scrollbars", "--force-device-scale-factor=1", fmt.Sprintf("--window-size=%d,%d", width, height),
		"--user-data-dir="+dir, "--remote-debugging-pipe", "about:blank")
	cmd.Env = append(os.Environ(), "TZ=UTC")
	cmd.ExtraFiles = []*os.File{theirIn, theirOut}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), theirIn.Close(), in.Close(), out.Close(), theirOut.Close())
	}
	b := &browser{ctx: ctx, cmd: cmd, in: in, out: out, read: bufio.NewReader(out)}
	return b, errors.Join(theirIn.Close(), theirOut.Close())
}

// close ends the browser, which may have left something half written: nobody
// opens its folder again.
func (b *browser) close() error {
	err := b.call("", "Browser.close", nil, nil)
	_ = b.cmd.Wait()
	return errors.Join(err, b.in.Close(), b.out.Close())
}

// call sends one command and waits for its answer, passing over events.
func (b *browser) call(session, method string, params map[string]any, result any) error {
	b.last++
	message := map[string]any{"id": b.last, "method": method, "params": params}
	if params == nil {
		delete(message, "params")
	}
	if session != "" {
		message["sessionId"] = session
	}
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if _, err := b.in.Write(append(data, 0)); err != nil {
		return fmt.Errorf("%s: %w", method, err)
	}
	for {
		data, err := b.read.ReadBytes(0)
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("%s: the browser has ended", method)
		} else if err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		var answer struct {
			ID     int             `json:"id"`
			Result json.RawMessage `json:"result"`
			Error  *struct {
				Message string `json:"message"`
			} `json:"error"`
		}
		if err := json.Unmarshal(data[:len(data)-1], &answer); err != nil {
			return fmt.Errorf("%s: %w", method, err)
		}
		switch {
		case answer.ID != b.last:
			continue
		case answer.Error != nil:
			return fmt.Errorf("%s: %s", method, answer.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	}
}

// page is one that is open.
type page struct {
	b       *browser
	session string
}

func (b *browser) open(url string) (*page, error) {
	var target struct {
		ID string `json:"targetId"`
	}
	if err := b.call("", "Target.createTarget", map[string]any{"url": url}, &target); err != nil {
		return nil, err
	}
	var attached struct {
		Session string `json:"sessionId"`
	}
	if err := b.call("", "Target.attachToTarget", map[string]any{"targetId": target.ID, "flatten": true}, &attached); err != nil {
		return nil, err
	}
	p := &page{b, attached.Session}
	return p, b.call(p.session, "Emulation.setDeviceMetricsOverride",
		map[string]any{"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false}, nil)
}

// evaluate runs JavaScript and returns its value.
func (p *page) evaluate(script string, value any) error {
	var got struct {
		Result struct {
			Value json.RawMessage `json:"value"`
		} `json:"result"`
		Exception *struct {
			Text string `json:"text"`
		} `json:"exceptionDetails"`
	}
	if err := p.b.call(p.session, "Runtime.evaluate", map[string]any{"expression": script, "returnByValue": true}, &got); err != nil {
		return err
	}
	if got.Exception != nil {
		return fmt.Errorf("%s: %s", script, got.Exception.Text)
	}
	return json.Unmarshal(got.Result.Value, value)
}

// click follows the link with this text, once it is there.
func (p *page) click(text string) error {
	name, err := json.Marshal(text)
	if err != nil {
		return err
	}
	return p.poll(fmt.Sprintf("link %q", text), func() (bool, error) {
		var done bool
		err := p.evaluate(fmt.Sprintf("(l => { l?.click(); return !!l })([...document.querySelectorAll('a')].find(a => a.innerText.trim() === %s))", name), &done)
		return done, err
	})
}

// visible is a script for what the page says, with what is in its frames,
// which is where the Temporal UI puts Markdown.
const visible = "[document, ...[...document.querySelectorAll('iframe')].map(f => f.contentDocument)].map(d => d?.body?.innerText ?? '').join('\\n')"

// await waits until the page shows all of texts, and then for another second,
// for what moves to come to rest.
func (p *page) await(texts ...string) error {
	for _, text := range texts {
		if err := p.poll(fmt.Sprintf("text %q", text), func() (bool, error) {
			var shown string
			err := p.evaluate(visible, &shown)
			return strings.Contains(shown, text), err
		}); err != nil {
			return err
		}
	}
	return p.b.pause(time.Second)
}

func (p *page) poll(what string, there func() (bool, error)) error {
	deadline := time.Now().Add(30 * time.Second)
	for {
		if ok, err := there(); ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the page doesn't show the %s", what)
		}
		if err := p.b.pause(100 * time.Millisecond); err != nil {
			return err
		}
	}
}

func (b *browser) pause(d time.Duration) error {
	select {
	case <-b.ctx.Done():
		return b.ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// picture is what the page shows within clip.
func (p *page) picture(clip image.Rectangle) (image.Image, error) {
	var shot struct {
		Data []byte `json:"data"` // base64 in JSON, as encoding/json has it
	}
	if err := p.b.call(p.session, "Page.captureScreenshot", map[string]any{"format": "png", "clip": map[string]any{
		"x": clip.Min.X, "y": clip.Min.Y, "width": clip.Dx(), "height": clip.Dy(), "scale": 1,
	}}, &shot); err != nil {
		return nil, err
	}
	return png.Decode(bytes.NewReader(shot.Data))
}
